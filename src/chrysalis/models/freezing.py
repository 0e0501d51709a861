"""Which of a model's weights learn: all, the new ones of a condition alone, or parts of the UNet by name."""

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
    """Whether a parameter of a denoiser, or of its UNet, came with a condition."""
    return name.startswith("conditioner.") or name.endswith("conv_in.extra")


def freeze(unet: nn.Module, conditioner: nn.Module | None, train: str | Sequence[str] = "all") -> None:
    """Let only what `train` names learn: "all", "new", or of PARTS; what is new always does.

    New is what a condition brought, and a LoRA, beside which the UNet's own weights rest.
    """
    asked = [train] if isinstance(train, str) else train
    if not isinstance(asked, Sequence) or not asked or not all(isinstance(name, str) for name in asked):
        raise UserError(f"model.train={train} must be all, new, or a list of {', '.join(PARTS)}.")
    asked = list(asked)
    has_lora = lora.injected(unet)
    if has_lora and asked != ["all"]:
        raise UserError(
            f"model.train={','.join(asked)} has no meaning beside a LoRA, which learns alone: leave it out."
        )
    for name in asked:
        if name not in ("all", "new", *PARTS):
            raise UserError(f"model.train={name} is unknown: choose all, new, {', '.join(PARTS)}, or a list of these.")
    for name, p in unet.named_parameters():
        new = is_new(name) or ".lora_" in name
        p.requires_grad_(
            new or ("all" in asked and not has_lora) or any(re.search(PARTS[a], name) for a in asked if a in PARTS)
        )
    if conditioner is not None:
        conditioner.requires_grad_(True)
    learning = [p for part in (unet, conditioner) if part is not None for p in part.parameters() if p.requires_grad]
    if not learning:
        why = "nothing is new without a condition: give one" if asked == ["new"] else "this UNet has no such weights"
        raise UserError(f"model.train={','.join(asked)}: {why}, or choose model.train=all.")
