"""The prompt of a text-to-image UNet, which reads a frozen text encoder's states by cross-attention of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from chrysalis.conditions.conditioner import FrozenEncoder, Part


class PromptEncoder(FrozenEncoder):
    """CLIP's last hidden states of all 77 tokens, padding included, as Stable Diffusion 1.x and 2.x read them."""

    @torch.no_grad()
    def _encode(self, captions: list[str], device: torch.device) -> list[torch.Tensor]:
        longest = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        with torch.autocast(torch.device(device).type, enabled=False):
            return list(self.model.to(device)(tokens.input_ids.to(device))[0].float().cpu())


class Prompt(Part):
    """Captions, for the UNet's own cross-attention; the null is the empty caption."""

    encoder = None  # it is frozen

    def __init__(self, tokenizer: Any, model: Any):
        super().__init__()
        self.frozen = [PromptEncoder(tokenizer, model)]
        self.null = nn.Buffer(torch.zeros(model.config.hidden_size), persistent=False)  # for its width

    def null_values(self, x_t: torch.Tensor) -> tuple[None, ...]:
        return (None,) * len(x_t)

    def forward(self, captions: Sequence[str | None]) -> torch.Tensor:
        """Encode B captions as the encoder's states [B, 77, D]."""
        return self.frozen[0]([caption or "" for caption in captions], self.null.device)[0]


class PromptConditioner(nn.Module):
    """The conditioner of a UNet2DConditionModel; see Conditioner. It has no weights of its own."""

    def __init__(self, tokenizer: Any, model: nn.Module):
        super().__init__()
        self.text = Prompt(tokenizer, model)
        self.names, self.parts, self.channels = ["text"], {"text": self.text}, {}

    def attach(self, unet: Any) -> None:
        """Do nothing: the UNet has its cross-attention."""

    def completed(self, cond: Mapping | None, x_t: torch.Tensor) -> dict:
        """The condition of images shaped like x_t [B, C, H, W], with the null if it has no text."""
        return {"text": (cond or {}).get("text", self.text.null_values(x_t))}

    def forward(self, unet: Any, x_t: torch.Tensor, t: torch.Tensor, cond: Mapping | None = None) -> torch.Tensor:
        """The UNet's output for x_t [B, C, H, W] under `cond`."""
        states = self.text(self.completed(cond, x_t)["text"])
        return unet(x_t, t, encoder_hidden_states=states.to(x_t.dtype), return_dict=False)[0]
