"""Which weights are trained: all, the new ones of a condition alone, or parts of the UNet by name."""

import re
from collections.abc import Sequence

from torch import nn

from chrysalis.models import lora
from chrysalis.system.errors import UserError

PARTS = {
    "all": "",
    "new": r"(?!)",  # none of the UNet's: those that a condition adds are trained in any case
    "attention": r"(^|\.)attentions\.",
    "down": r"^down_blocks\.",
    "mid": r"^mid_block\.",
    "up": r"^up_blocks\.",
    "time": r"(^|\.)time_emb",
    "norm": r"norm",
}


def freeze(unet: nn.Module, conditioner: nn.Module | None, train: str | Sequence[str] = "all") -> None:
    """Freeze the weights that are not trained; those of the conditioner or of a LoRA always train.

    train: names of PARTS; with a LoRA only "all". Raises UserError for other names, or if nothing is trained.
    """
    names = [train] if isinstance(train, str) else list(train)
    shown, has_lora = f"model.train={','.join(names)}", lora.injected(unet)
    if has_lora and names != ["all"]:
        raise UserError(f"{shown} does not apply to a LoRA, which is trained alone: leave it out.")
    for name in names or [""]:
        if name not in PARTS:
            raise UserError(f"model.train={name} is unknown: choose {', '.join(PARTS)}, or a list of these.")
    patterns = [r"\.lora_"] if has_lora else [PARTS[name] for name in names]
    for name, p in unet.named_parameters():
        p.requires_grad_(any(re.search(pattern, name) for pattern in patterns))
    if conditioner is not None:
        conditioner.requires_grad_(True)
    modules = [unet] if conditioner is None else [unet, conditioner]
    if not any(p.requires_grad for module in modules for p in module.parameters()):
        why = "nothing is new without a condition: add one, or" if names == ["new"] else "the UNet has no such weights:"
        raise UserError(f"{shown}: {why} choose model.train=all.")
