"""Which weights are trained: all, the new ones of a condition alone, or parts of the UNet by name."""

import re
from collections.abc import Sequence

from torch import nn

from chrysalis.models import lora
from chrysalis.system.errors import UserError

PARTS = {
    "attention": r"(^|\.)attentions\.",
    "down": r"^down_blocks\.",
    "mid": r"^mid_block\.",
    "up": r"^up_blocks\.",
    "time": r"(^|\.)time_emb",
    "norm": r"norm",
}


def is_new(name: str) -> bool:
    """Whether a parameter of a denoiser, or of its UNet, was added for a condition."""
    return name.startswith("conditioner.") or name.endswith("conv_in.extra")


def freeze(unet: nn.Module, conditioner: nn.Module | None, train: str | Sequence[str] = "all") -> None:
    """Freeze the weights that are not trained.

    Args:
        unet: the UNet, with the condition and the LoRA attached.
        conditioner: of a conditional model; always trained.
        train: "all", "new" or names of PARTS. New weights, those of a condition or a LoRA, are always trained; beside
            a LoRA, all others are frozen.

    Raises:
        UserError: `train` is unknown, or leaves nothing to train.
    """
    names = [train] if isinstance(train, str) else train
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"model.train={train} must be all, new, or a list of {', '.join(PARTS)}.")
    shown, has_lora = f"model.train={','.join(names)}", lora.injected(unet)
    if has_lora and list(names) != ["all"]:
        raise UserError(f"{shown} has no meaning beside a LoRA, which is trained alone: leave it out.")
    for name in names:
        if name not in ("all", "new", *PARTS):
            raise UserError(f"model.train={name} is unknown: choose all, new, {', '.join(PARTS)}, or a list of these.")
    patterns = [PARTS[name] for name in names if name in PARTS]
    if "all" in names and not has_lora:
        patterns.append("")
    for name, p in unet.named_parameters():
        is_trained = is_new(name) or ".lora_" in name or any(re.search(pattern, name) for pattern in patterns)
        p.requires_grad_(is_trained)
    if conditioner is not None:
        conditioner.requires_grad_(True)
    if not any(p.requires_grad for part in (unet, conditioner) if part is not None for p in part.parameters()):
        why = (
            "nothing is new without a condition: add one" if list(names) == ["new"] else "this UNet has no such weights"
        )
        raise UserError(f"{shown}: {why}, or choose model.train=all.")
