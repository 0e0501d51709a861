"""Samplers by the names people use, each built from the training scheduler's config."""

import inspect

import diffusers

from chrysalis.errors import UserError

FULL_NOISE = {"timestep_spacing": "linspace"}  # start at T - 1; "leading" starts where some picture is left
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2, **FULL_NOISE}),
    "unipc": ("UniPCMultistepScheduler", FULL_NOISE),
    "euler": ("EulerDiscreteScheduler", FULL_NOISE),
    # even steps in t end with one far too long for a second-order correction, which leaves grain
    "heun": ("HeunDiscreteScheduler", {"clip_sample": False, "use_karras_sigmas": True, **FULL_NOISE}),
}

# What defines x_t and the prediction: always the training scheduler's own, never a sampler's default
NOISE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


def require_known(name: str, key: str) -> None:
    """Refuse a name, as the user set it by `key`, that is not in the table."""
    if name not in SCHEDULERS:
        raise UserError(f"{key}={name} is unknown: choose one of {', '.join(SCHEDULERS)}.")


def build(training_scheduler, name: str, **settings):
    """A fresh scheduler for drawing. settings: overrides of its config, such as timestep_spacing.

    The training scheduler's learned variance is left out: the second half of such a UNet's output is dropped.
    """
    require_known(name, "scheduler")
    kind, defaults = SCHEDULERS[name]
    scheduler_class = getattr(diffusers, kind)
    config = dict(training_scheduler.config)
    if str(config.get("variance_type", "")).startswith("learned"):
        config["variance_type"] = "fixed_small"
    # from_config drops what the training scheduler left at its default, and Heun's default betas are others
    taken = inspect.signature(scheduler_class).parameters
    noise = {key: config[key] for key in NOISE if key in config and key in taken}
    try:
        return scheduler_class.from_config(config, **{**noise, **defaults, **settings})
    except NotImplementedError as error:
        schedule = config.get("beta_schedule")
        raise UserError(f"scheduler={name} does not know the model's beta_schedule={schedule}: use ddpm.") from error
