"""A folder's scheduler_config.json into its training scheduler; what is no DDPM noise schedule is refused."""

import inspect
from collections.abc import Collection, Mapping

import diffusers
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from chrysalis.diffusion.objective import PREDICTION_TYPES
from chrysalis.system.errors import UserError

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

# What else of a folder's scheduler_config.json counts: the settings of DDPM and DDIM, which stock diffusers' own
# pipelines read. Any other was left there for another sampler, such as use_flow_sigmas for a solver of its own
KEPT = (
    *NOISE,
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "variance_type",
    "set_alpha_to_one",
    "steps_offset",
    "timestep_spacing",
)

OLD = ("tensor_format", "predict_epsilon")  # of early diffusers: the first is of no account, the second is translated


def read(settings: Mapping, asked: str) -> DDPMScheduler:
    """The DDPM scheduler with the noise levels and the prediction of these settings, whichever sampler left them.

    asked: KEY=VALUE as the user set the folder.
    """
    settings, file = dict(settings), "scheduler_config.json"
    kind = settings.get("_class_name") or "DDPMScheduler"
    cls = getattr(diffusers, str(kind), None)
    taken = _parameters(cls)
    if "beta_schedule" not in taken:
        raise UserError(f"{asked} was trained with {kind}, which is no discrete DDPM noise schedule.")
    known = {*taken, *_parameters(DDPMScheduler)}
    if {*settings} - known:
        others = (getattr(diffusers, other.name, None) for other in KarrasDiffusionSchedulers)
        known |= {*OLD}.union(*map(_parameters, others))
    refuse_unknown(settings, known, file, asked)

    if (predicts_eps := settings.pop("predict_epsilon", None)) is not None:
        meant = "epsilon" if predicts_eps else "sample"
        if settings.setdefault("prediction_type", meant) != meant:
            raise UserError(
                f"{asked} has predict_epsilon={str(bool(predicts_eps)).lower()} and "
                f"prediction_type={settings['prediction_type']} in {file}, which disagree: delete the wrong one there."
            )
    own = cls.from_config({key: value for key, value in settings.items() if key in NOISE})
    # Each class has its own defaults: Heun's betas, where a file leaves them out, are not DDPM's
    noise = {key: own.config[key] for key in NOISE if key in own.config}
    kept = {key: value for key, value in settings.items() if key in KEPT}
    scheduler = DDPMScheduler.from_config(kept, **noise)
    if scheduler.config.prediction_type not in PREDICTION_TYPES.values():
        raise UserError(
            f"{asked} has prediction_type={scheduler.config.prediction_type} in {file}: only models that predict "
            f"{', '.join(PREDICTION_TYPES.values())} can be used."
        )
    abar = scheduler.alphas_cumprod
    if not abar.isfinite().all():
        raise ValueError(f"the noise levels in its {file} are not finite")
    if own.alphas_cumprod.shape != abar.shape or (own.alphas_cumprod - abar).abs().max() > 1e-6:
        raise UserError(f"{asked} was trained with {kind}, whose noise levels are not those of DDPM.")
    if abar[-1] == 0 and scheduler.config.prediction_type == "epsilon":
        raise UserError(
            f"{asked} predicts epsilon under zero terminal SNR, where x_0 is 0/0 at the last timestep: "
            f"set in its {file} the prediction_type that it was trained for, or rescale_betas_zero_snr to false."
        )
    return scheduler


def refuse_unknown(settings: Mapping, known: Collection[str], file: str, asked: str) -> None:
    """Refuse a setting that diffusers would pass over, though it may change what the model computes."""
    for name, value in settings.items():
        if name not in known and not name.startswith("_") and value not in (None, False):
            raise UserError(
                f"{asked} has {name}={value!r:.60} in {file}, which diffusers {diffusers.__version__} does not know: "
                "delete it there if the model does not depend on it."
            )


def _parameters(cls: object) -> Collection[str]:
    """What a scheduler class is built from; nothing for what is none, or lacks a library."""
    try:
        return [*inspect.signature(cls).parameters] if hasattr(cls, "add_noise") else []
    except ImportError:  # diffusers' stand-in for a class whose library is missing
        return []
