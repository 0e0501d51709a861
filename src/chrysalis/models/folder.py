"""Loading of a model by its name: a folder, a run, a bundled model or a hub id, with the same checks for all."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from chrysalis.models import families
from chrysalis.models.layout import Layout, find_weights
from chrysalis.models.location import BUNDLED, locate
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
) -> Model:
    """Load a model, with unet/ and scheduler/ below its folder or both at its root.

    Args:
        pretrained: a folder, a run's name or a hub id.
        key: the configuration key it was given by, for messages.
        train: which weights are trained, see freezing.py.
        gradient_checkpointing: in training keep only the inputs of each layer, and recompute the rest.
        subfolder: where the UNet is, such as unet_ema; None for unet/, or the root.
        variant: of the weight files, such as fp16 for diffusion_pytorch_model.fp16.safetensors; None for the plain
            ones, or the only variant there is.
        revision: a branch, tag or commit of a hub id, which may also be written ID@REVISION; None for its main branch.

    Raises:
        UserError: there is no such model, or no family reads it.
    """
    found, argument = locate(pretrained, key), f"{key}={pretrained}"
    if not isinstance(found, Path):
        hub_id, named = hub.split_revision(found)
        model = _from_hub(hub_id, argument, subfolder, variant, revision or named)
    elif revision is None:
        model = families.load(found, argument, subfolder, variant)
    else:
        raise UserError(f"model.revision={revision} is for a hub id, and {argument} is a folder: leave it out.")
    for module in model.modules():
        align(module)
    if gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    return replace(model, train=train)


def _from_hub(hub_id: str, argument: str, subfolder: str | None, variant: str | None, revision: str | None) -> Model:
    """Load OWNER/NAME; the network is used only where the local cache does not suffice."""
    fetch = partial(_fetch, hub_id, argument, subfolder, variant, revision)
    try:
        return fetch(only_cached=True)
    except Exception as error:  # a UserError too, such as for an incomplete cache
        if hub.unreachable() and isinstance(error, UserError):
            raise
    try:
        return fetch(only_cached=False)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises dozens of kinds
        why = hub.why(error, hub_id, revision=revision)
        offline = f" The offline default is model.pretrained={BUNDLED}." if hub.unreachable() else ""
        raise UserError(f"{argument} could not be fetched from the hub: {why}.{offline}") from error


def _fetch(
    hub_id: str, argument: str, subfolder: str | None, variant: str | None, revision: str | None, only_cached: bool
) -> Model:
    with hub.quiet():
        # 1. Its configuration: weights of another family may be gigabytes
        folder = hub.snapshot(hub_id, hub.SETTINGS, only_cached, revision)
        _, layout = families.recognize(folder, argument, subfolder)
        layout.scheduler_file()
        # 2. The one kind of weights that is needed
        weights = layout.weights(variant, _weight_names(hub_id, layout, variant, only_cached))
        inside = layout.unet_at.relative_to(folder)
        wanted = [(inside / name).as_posix() for name in weights.names]
        folder = hub.snapshot(hub_id, [*hub.SETTINGS, *hub.BESIDE, *wanted], only_cached, revision)
        # 3. The model, as from any folder
        model = families.load(folder, argument, subfolder, variant)
        return replace(model, origin=f"{hub_id}@{revision}" if revision else hub_id)


def _weight_names(hub_id: str, layout: Layout, variant: str | None, only_cached: bool) -> list[str]:
    """The file names in the UNet's folder that its weights can be chosen from."""
    listed = hub.listing(hub_id, layout.folder, only_cached)
    if listed is not None:
        inside = layout.unet_at.relative_to(layout.folder)
        return [Path(name).name for name in listed if Path(name).parent == inside]
    cached = [file.name for file in layout.unet_at.iterdir()]
    exact = [name for name in cached if any(w.variant == variant for w in find_weights([name]))]
    return exact if exact or not hub.unreachable() else cached  # the hub may have the variant that is not cached
