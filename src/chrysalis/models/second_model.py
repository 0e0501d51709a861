"""A second model beside the first, for guidance and blending: another folder, or a checkpoint of the run."""

import copy
from dataclasses import replace

import torch

from chrysalis.models import folder, location
from chrysalis.models.model import Model
from chrysalis.system.errors import UserError


def load(model: Model, pretrained: str | None, key: str) -> Model:
    """Load another model that can be compared and mixed with `model`; see folder.load for the arguments.

    pretrained: None for the model that it was fine-tuned from. Raises UserError if that is unknown, or if it differs in
    its noise levels, or in the labels or vectors it is conditioned on.
    """
    pretrained = pretrained or location.base_of(model.origin)
    if pretrained is None:
        raise UserError(f"{model.origin} does not say what it was fine-tuned from: give {key}=FOLDER.")
    other = folder.load(pretrained, key)
    ours, theirs = model.scheduler.alphas_cumprod, other.scheduler.alphas_cumprod
    if len(ours) != len(theirs) or not torch.allclose(theirs, ours, atol=1e-6):
        raise UserError(f"{key}={pretrained} has other noise levels than {model.origin}: choose a model with the same.")
    if not _same_latents(model, other):
        raise UserError(
            f"{key}={pretrained} has other latents than {model.origin}: choose a model with the same autoencoder."
        )
    for name in ("label", "vector"):
        known, others = _names(model, name), _names(other, name)
        if known and others and known != others:
            raise UserError(
                f"{key}={pretrained} is conditioned on other {name}s than {model.origin} ({', '.join(others[:5])}, "
                "...): choose a model with the same."
            )
    return other


def _same_latents(model: Model, other: Model) -> bool:
    """Whether x_0 of an image is the same for both, on latents or on pixels."""
    pixels = [m.family.factor == 1 for m in (model, other)]
    if any(pixels):
        return all(pixels)
    ramp = torch.linspace(0, 255, 8 * model.family.factor).expand(8 * model.family.factor, -1)
    image = torch.stack([ramp, ramp.T, 255 - ramp])[None].round().to(torch.uint8)
    x0, x0_of_other = (m.family.encode(image) for m in (model, other))
    # float16 weights change them by less than 0.01
    return x0.shape == x0_of_other.shape and torch.allclose(x0, x0_of_other, atol=0.1)


def _names(model: Model, part: str) -> list[str]:
    """The labels of a model, or the names of its vector's numbers; none where it has no such condition."""
    parts = {} if model.conditioner is None else model.conditioner.parts
    return getattr(parts.get(part), "names", [])


def from_checkpoint(model: Model, file: str, key: str) -> Model:
    """Return a copy of an exported model with the EMA weights of a checkpoint of its run, in runs/NAME/checkpoints/.

    key: the configuration key, for messages. Raises UserError if the file is damaged or holds other weights.
    """
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)["callbacks"]
        ema_weights = dict(next(state["ema_weights"] for state in saved.values() if "ema_weights" in state))
    except Exception as error:  # a damaged or foreign file raises a dozen kinds
        raise UserError(f"{key}={file} is not a checkpoint: give one of this model's run, in checkpoints/.") from error
    unet, conditioner = copy.deepcopy((model.unet, model.conditioner))  # together: the UNet's hooks refer to both
    modules = {"unet": unet, "conditioner": conditioner}
    own = dict(torch.nn.ModuleDict({name: m for name, m in modules.items() if m is not None}).named_parameters())
    pairs = [(own[name], weight) for name, weight in ema_weights.items() if name in own]
    if any(".lora_" in name and name not in own for name in ema_weights):
        raise UserError(
            f"{key}={file} holds a LoRA apart from the weights, and {model.origin} has it merged into them: give the "
            "folder of a run that was trained less, or train with adapter.merge=false."
        )
    if not pairs or len(pairs) < len(ema_weights) or any(mine.shape != weight.shape for mine, weight in pairs):
        raise UserError(f"{key}={file} holds other weights than {model.origin}: give a checkpoint of its run.")
    for mine, weight in pairs:
        mine.data.copy_(weight)
    return replace(model, unet=unet, conditioner=conditioner, origin=file, train="all")
