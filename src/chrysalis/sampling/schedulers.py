"""Diffusers schedulers by the names people use, each built from the training scheduler's config."""

import inspect
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler

from chrysalis.models.training_scheduler import KEPT, NOISE
from chrysalis.system.errors import UserError, first_line
from chrysalis.system.ranges import Fraction

Scheduler = Any  # diffusers declares neither the config nor the step that its schedulers have in common

# "linspace" begins at the highest noise level ("leading" begins where part of an image is left). Karras spacing (Karras
# et al. 2022) shortens the steps towards the end: of evenly spaced steps the last is too long and leaves grain or blur.
KARRAS = {"clip_sample": False, "use_karras_sigmas": True, "timestep_spacing": "linspace"}
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", KARRAS),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "heun": ("HeunDiscreteScheduler", KARRAS),
    "lms": ("LMSDiscreteScheduler", KARRAS),
    "kdpm2": ("KDPM2DiscreteScheduler", KARRAS),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", **KARRAS}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", **KARRAS}),
    # the single-step form, as diffusers' own table of k-diffusion names has it; it needs no torchsde
    "dpmpp_sde": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "lower_order_final": True, **KARRAS},
    ),
    "unipc": ("UniPCMultistepScheduler", KARRAS),
    "deis": ("DEISMultistepScheduler", KARRAS),
}

# diffusers' implementations of these read eps or v only
NO_X0 = (
    "PNDMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
)

CHOOSE = f"choose one of {', '.join(SCHEDULERS)}."

OTHER_SPACINGS = ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")  # each replaces Karras spacing


def require_known(name: str, key: str) -> None:
    """Raise UserError unless name, the value of `key`, is in the table or a scheduler class of diffusers."""
    is_class = name.endswith("Scheduler") and inspect.isclass(getattr(diffusers, name, None))
    if name not in SCHEDULERS and not is_class:
        raise UserError(f"{key}={name} is unknown: {CHOOSE[:-1]}, or a scheduler class of diffusers.")


def build(training_scheduler, name: str, eta: Fraction = 0.0, **settings):
    """Build a fresh scheduler for sampling.

    A learned variance of the training scheduler is replaced by a fixed one: the denoiser drops that half of the output.

    Args:
        training_scheduler: what the model was trained with; its noise levels and prediction type are kept.
        name: one of SCHEDULERS, or a scheduler class of diffusers.
        eta: noise of DDIM's step, from 0 (deterministic) to 1 (as noisy as DDPM; Song et al. 2021, eq. 16).
        settings: overrides of the scheduler's config, such as timestep_spacing.
    """
    require_known(name, "scheduler")
    kind, defaults = SCHEDULERS.get(name, (name, {"skip_prk_steps": True}))
    accepted = _parameters(kind)
    _refuse_settings(kind, accepted, settings)
    config = {k: v for k, v in training_scheduler.config.items() if k in KEPT or k == "_use_default_values"}
    if str(config.get("variance_type", "")).startswith("learned"):
        config["variance_type"] = "fixed_small"
    if float(training_scheduler.alphas_cumprod[-1]) == 0:
        if "rescale_betas_zero_snr" not in accepted:
            raise UserError(f"scheduler={name} cannot serve a model with zero terminal SNR: use ddim.")
        config["rescale_betas_zero_snr"] = True  # a config with rescaled trained_betas does not say so
    if any(settings.get(key) for key in OTHER_SPACINGS):
        defaults = {**defaults, "use_karras_sigmas": False}
    # from_config drops what the training scheduler left at its default, and Heun has other default betas
    noise = {key: config[key] for key in NOISE if key in config and key in accepted}
    # the loop converts the prediction; PNDM adds up outputs of several timesteps, which is right for eps alone
    if kind == "PNDMScheduler" or (noise["prediction_type"] == "sample" and kind in NO_X0):
        noise["prediction_type"] = "epsilon"
    overrides = {key: value for key, value in {**noise, **defaults, **settings}.items() if key in accepted}
    scheduler = _from_config(name, kind, config, overrides)
    if not torch.allclose(scheduler.alphas_cumprod, training_scheduler.alphas_cumprod, atol=1e-6):
        raise UserError(f"scheduler={name} changes the model's noise levels and cannot serve it: {CHOOSE}")
    if eta:
        if "eta" not in inspect.signature(scheduler.step).parameters:
            raise UserError(f"scheduler.eta is not a setting of {kind}: use scheduler=ddim, or leave it out.")
        scheduler.eta = eta  # read by `step_arguments`: diffusers keeps it in no config
    return scheduler


def _from_config(name: str, kind: str, config: dict, overrides: dict) -> Scheduler:
    cls = LMS if kind == "LMSDiscreteScheduler" else getattr(diffusers, kind)
    try:
        return cls.from_config(config, **overrides)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        message = f"scheduler={name} cannot be built: {first_line(error)}. Change scheduler.*, or {CHOOSE}"
        schedule = str(config.get("beta_schedule"))
        if isinstance(error, NotImplementedError) and schedule in str(error):
            message = f"scheduler={name} does not know the model's beta_schedule={schedule}: use ddpm."
        raise UserError(message) from error


def _parameters(kind: str) -> dict[str, inspect.Parameter]:
    """The parameters of a scheduler class; raises UserError for one that does not sample from a DDPM noise schedule."""
    cls = getattr(diffusers, kind)
    try:
        accepted, step = inspect.signature(cls).parameters, inspect.signature(cls.step).parameters
    except ImportError as error:  # diffusers' placeholder for a class whose library is not installed
        raise UserError(f"scheduler={kind} cannot be used: {first_line(error)}. Install it, or {CHOOSE}") from error
    except AttributeError:
        accepted, step = {}, {}
    required = [p.name for p in step.values() if p.default is p.empty]
    serves = {"beta_schedule", "prediction_type"} <= set(accepted) and len(required) == 4
    if not serves or "Inverse" in kind:
        raise UserError(
            f"scheduler={kind} is for another kind of model or use (such as flow matching or EDM sigmas), not sampling "
            f"from a DDPM noise schedule: {CHOOSE}"
        )
    return dict(accepted)


def _refuse_settings(kind: str, accepted: dict, settings: dict) -> None:
    for key in settings:
        if key not in accepted and (key, settings[key]) != ("clip_sample", False):  # it never clips
            raise UserError(f"scheduler.{key} is not a setting of diffusers' {kind}: remove it.")
        if key in NOISE:
            raise UserError(f"scheduler.{key} is the model's own and cannot be set: remove it.")
    if kind == "PNDMScheduler" and not settings.get("skip_prk_steps", True):
        raise UserError("scheduler.skip_prk_steps=false cannot start at a later step, as some tasks do: leave it true.")
    if settings.get("use_flow_sigmas"):
        raise UserError(f"scheduler.use_flow_sigmas is for flow matching, not for a DDPM noise schedule: {CHOOSE}")
    if kind == "UniPCMultistepScheduler" and not settings.get("lower_order_final", True):
        raise UserError("scheduler.lower_order_final=false divides by zero at unipc's last step: leave it true.")


def step_arguments(scheduler: Scheduler, generators: list[torch.Generator]) -> dict:
    """The arguments of this scheduler's step besides output, timestep and sample."""
    accepted = inspect.signature(scheduler.step).parameters
    arguments = {"generator": generators, "eta": getattr(scheduler, "eta", None)}
    return {name: value for name, value in arguments.items() if name in accepted and value is not None}


class LMS(LMSDiscreteScheduler):
    """Limit the order by the history: diffusers takes it from the step index, too high at the start of a segment."""

    def step(self, model_output, timestep, sample, order: int = 4, return_dict: bool = True):
        return super().step(model_output, timestep, sample, min(order, len(self.derivatives) + 1), return_dict)
