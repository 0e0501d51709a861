"""From a loaded model to the denoiser that is trained: the only place that changes the model before training."""

from collections.abc import Mapping
from typing import Any

from chrysalis.conditions.kinds import build_conditioner
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import Objective
from chrysalis.diffusion.weighting import Weighting
from chrysalis.models.freezing import freeze
from chrysalis.models.lora import LoRA
from chrysalis.models.model import Model


def build_denoiser(
    model: Model,
    data: ImageDataModule,
    objective: Objective,
    kinds: Mapping[str, Any],
    adapter: LoRA | None = None,
    dropout: float = 0.0,
    weighting: Weighting | None = None,
    noise_offset: float = 0.0,
) -> Denoiser:
    """Make a model a denoiser of the data, in place.

    Args:
        model: keeps the conditioner; its scheduler's config records the objective for the export.
        data: set up here; its labels are numbered as the model does.
        kinds: {name: kind} of the conditions that the model is to have, see conditions/kinds/.
        adapter: is injected into the UNet; None to train the weights themselves.

    Raises:
        UserError: if the data lack what a condition needs, or the model and the conditions do not fit together.
    """
    # 1. Conditions, from what the data have
    data.setup()
    model.conditioner = build_conditioner(model.unet, model.conditioner, kinds, data)
    # 2. Which weights are trained
    if adapter is not None:
        adapter.inject(model.unet)
    unet: Any = model.unet  # diffusers declares a dummy beside its class
    freeze(unet, model.conditioner, model.train)
    # 3. What they are trained for
    model.register_objective(objective)
    return Denoiser(unet, model.scheduler, objective, model.conditioner, dropout, weighting, noise_offset)
