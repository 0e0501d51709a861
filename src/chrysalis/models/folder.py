"""Loading of a model by its name: a folder, a run, a bundled model or a hub id."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chrysalis.models import families, from_hub
from chrysalis.models.layout import Selection
from chrysalis.models.location import locate
from chrysalis.models.model import Model
from chrysalis.system import hub
from chrysalis.system.errors import UserError
from chrysalis.system.memory import align


def load(
    pretrained: str,
    key: str = "model.pretrained",
    train: str | Sequence[str] = "all",
    gradient_checkpointing: bool = False,
    subfolder: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    scheduler: str | None = None,
    random: bool = False,
) -> Model:
    """Load a model, with unet/ and scheduler/ below its folder or both at its root.

    Args:
        pretrained: a folder, a run's name or a hub id.
        key: the configuration key it was given by, for messages.
        train: which weights are trained, see freezing.py.
        gradient_checkpointing: in training keep only the inputs of each layer, and recompute the rest.
        subfolder: where the UNet is, such as unet_ema; None for unet/, or the root.
        variant: suffix of the weight files, such as fp16 in diffusion_pytorch_model.fp16.safetensors; None for the
            plain ones, or the only variant there is.
        revision: a branch, tag or commit of a hub id, which may also be written ID@REVISION; None for its main branch.
        scheduler: a folder or hub id with the scheduler that the model was trained with, for a UNet without one.
        random: give its UNet random weights, for a comparison with training from scratch; an autoencoder keeps its own.

    Raises:
        UserError: there is no such model, or no family reads it.
    """
    found, argument = locate(pretrained, key), f"{key}={pretrained}"
    elsewhere = None if scheduler is None else _scheduler_folder(scheduler)
    selection = Selection(argument, subfolder, variant, elsewhere)
    if not isinstance(found, Path):
        hub_id, named = hub.split_revision(found)
        model = from_hub.load(hub_id, selection, revision or named)
    elif revision is None:
        model = families.load(found, selection)
    else:
        raise UserError(f"model.revision={revision} is for a hub id, and {argument} is a folder: leave it out.")
    if random:
        model = _with_random_weights(model, argument)
    for module in model.modules():
        align(module)
    if gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    return replace(model, train=train)


def _with_random_weights(model: Model, argument: str) -> Model:
    if model.conditioner is not None:
        raise UserError(f"model.random=true needs an unconditional model, and {argument} is conditional: leave it out.")
    kind: Any = type(model.unet)
    return replace(model, unet=kind.from_config(model.unet.config), origin=None)


def _scheduler_folder(scheduler: str) -> Path:
    found = locate(scheduler, "model.scheduler")
    if isinstance(found, Path):
        return found
    hub_id, revision = hub.split_revision(found)
    return from_hub.scheduler_folder(hub_id, f"model.scheduler={scheduler}", revision)
