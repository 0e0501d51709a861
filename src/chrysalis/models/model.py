"""A model, ready to be trained or sampled from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.diffusion.objective import Objective
from chrysalis.system.errors import UserError


@dataclass
class Model:
    """A UNet with its training scheduler."""

    unet: UNet2DModel  # with the conditioner and the LoRA attached, if there are any
    scheduler: DDPMScheduler
    origin: str | None  # the folder or hub id it was loaded from; None for a random initialization
    conditioner: Conditioner | None = None
    train: str | Sequence[str] = "all"  # which weights are trained, see freezing.py
    family: Any = field(kw_only=True)  # an instance of a class in families.FAMILIES

    @property
    def prediction(self) -> str | None:
        """What a pretrained UNet predicts; None for a random initialization, which has no prediction type yet."""
        return self.scheduler.config["prediction_type"] if self.origin else None

    def register_objective(self, objective: Objective) -> None:
        """Write the objective into the scheduler's config, which is exported."""
        self.scheduler.register_to_config(prediction_type=objective.name)

    def size(self, key: str = "image_size") -> tuple[int, int]:
        """Return the (height, width) in pixels it was trained at; raises UserError with `key` if unknown."""
        if (native := self.family.native_size(self.unet)) is None:
            raise UserError(f"{self.origin} does not state its image size: give {key}=PIXELS.")
        return native

    def fit_to_size(self, size: tuple[int, int], key: str = "data.image_size", use: str = "fine-tuned") -> str | None:
        """Set the image size (height, width); return a sentence if a pretrained model was trained at another.

        key: the configuration key of the size. use: what is done with the model, for the sentence.
        """
        native = self.family.native_size(self.unet)
        self.family.fit(self.unet, size, key)
        if native is None or native == tuple(size) or self.origin is None:
            return None
        return f"The model was trained at {native[1]} x {native[0]} px and is now {use} at {size[1]} x {size[0]} px."

    def modules(self) -> list[torch.nn.Module]:
        """Return the UNet and, for a conditional model, the conditioner."""
        return [self.unet] if self.conditioner is None else [self.unet, self.conditioner]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters of the UNet and the conditioner."""
        return [p for module in self.modules() for p in module.parameters()]

    def description(self) -> str:
        """Return one line: origin, numbers of parameters, prediction type and conditions."""
        conditions = [] if self.conditioner is None else self.conditioner.names
        millions = sum(p.numel() for p in self.parameters()) / 1e6
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad) / 1e6
        text = f"model: {self.origin or 'random initialization'}, {millions:.1f} M parameters"
        text += f", {trained:.2f} M of them trained" if trained < 0.999 * millions else ""
        text += f", predicts {self.scheduler.config['prediction_type']}"
        return text + (f", conditioned on {', '.join(conditions)}" if conditions else "")
