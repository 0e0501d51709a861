"""Samplers by the names people use, each built from the training scheduler's config."""

import diffusers

from chrysalis.errors import UserError

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}


def build(name: str, training_scheduler, **settings):
    """A fresh scheduler for drawing. settings: overrides of its config, such as timestep_spacing.

    The training scheduler's learned variance is left out: the second half of such a UNet's output is dropped.
    """
    if name not in SCHEDULERS:
        raise UserError(f"scheduler={name} is unknown: choose one of {', '.join(SCHEDULERS)}.")
    kind, defaults = SCHEDULERS[name]
    config = dict(training_scheduler.config)
    if str(config.get("variance_type", "")).startswith("learned"):
        config["variance_type"] = "fixed_small"
    return getattr(diffusers, kind).from_config(config, **{**defaults, **settings})
