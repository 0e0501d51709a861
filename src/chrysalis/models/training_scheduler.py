"""The training scheduler of a model folder: the DDPM noise schedule in its scheduler_config.json."""

import inspect
from collections.abc import Callable, Collection, Mapping

import diffusers
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from chrysalis.diffusion.objective import PREDICTION_TYPES
from chrysalis.system.errors import UserError

# What defines x_t and the prediction: always the training scheduler's own, never a sampler's default
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
NOISE += ("prediction_type",)

# Also kept: the settings of DDPM and DDIM, which diffusers' own pipelines read; others belong to other samplers
KEPT = {*inspect.signature(DDPMScheduler).parameters, *inspect.signature(DDIMScheduler).parameters}

OLD = ("tensor_format", "predict_epsilon")  # in early diffusers: the first has no effect, the second is translated
FILE = "scheduler_config.json"


def read(config: Mapping, argument: str) -> DDPMScheduler:
    """Build a DDPM scheduler with the noise levels and the prediction type of a config, whichever class saved it.

    argument: KEY=VALUE as the user named the folder, for messages. Raises UserError for a config without a discrete
    DDPM noise schedule, or with settings whose effect is unknown.
    """
    settings, kind = dict(config), config.get("_class_name") or "DDPMScheduler"
    cls = getattr(diffusers, str(kind), None)
    own_settings = _parameters(cls)
    if cls is None or "beta_schedule" not in own_settings:
        raise UserError(f"{argument} was trained with {kind}, which has no discrete DDPM schedule: use another model.")
    known = {*own_settings, *_parameters(DDPMScheduler)}
    if {*settings} - known:
        others = (getattr(diffusers, other.name, None) for other in KarrasDiffusionSchedulers)
        known |= {*OLD}.union(*map(_parameters, others))
    refuse_unknown(settings, known, FILE, argument)
    predicts_eps = settings.pop("predict_epsilon", None)
    meant = "epsilon" if predicts_eps else "sample"
    if predicts_eps is not None and settings.setdefault("prediction_type", meant) != meant:
        raise UserError(
            f"{argument} has predict_epsilon={str(bool(predicts_eps)).lower()} and "
            f"prediction_type={settings['prediction_type']} in {FILE}, which disagree: delete the wrong one there."
        )
    own = cls.from_config({key: value for key, value in settings.items() if key in NOISE})
    # The class's own defaults fill what the file omits: those of Heun, for example, are not those of DDPM
    noise = {key: own.config[key] for key in NOISE if key in own.config}
    kept = {key: value for key, value in settings.items() if key in KEPT}
    scheduler = DDPMScheduler.from_config(kept, **noise)
    assert isinstance(scheduler, DDPMScheduler)  # a tuple only with return_unused_kwargs
    _require_usable(scheduler, argument)
    abar = scheduler.alphas_cumprod
    if own.alphas_cumprod.shape != abar.shape or (own.alphas_cumprod - abar).abs().max() > 1e-6:
        raise UserError(f"{argument} was trained with {kind}, whose noise levels are not DDPM's: use another model.")
    return scheduler


def as_ddim(scheduler: DDPMScheduler) -> DDIMScheduler:
    """Return the DDIM scheduler with the settings of a training scheduler, for pipelines that expect one."""
    # from_config resets the settings that are listed there to their defaults, even those that were changed later
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    ddim = DDIMScheduler.from_config(config)
    assert isinstance(ddim, DDIMScheduler)  # a tuple only with return_unused_kwargs
    return ddim


def _require_usable(scheduler: DDPMScheduler, argument: str) -> None:
    """Raise an error for an unknown prediction type, and for noise levels that are not finite or do not suit it."""
    prediction, abar = scheduler.config["prediction_type"], scheduler.alphas_cumprod
    if prediction not in PREDICTION_TYPES.values():
        raise UserError(
            f"{argument} has prediction_type={prediction} in {FILE}: choose a model that predicts "
            f"{' or '.join(PREDICTION_TYPES.values())}."
        )
    if not abar.isfinite().all():
        raise ValueError(f"the noise levels in its {FILE} are not finite")
    if abar[-1] == 0 and prediction == "epsilon":
        raise UserError(
            f"{argument} predicts epsilon under zero terminal SNR, where x_0 is 0/0 at the last timestep: "
            f"set in its {FILE} the prediction_type that it was trained for, or rescale_betas_zero_snr to false."
        )


def refuse_unknown(settings: Mapping, known: Collection[str], file: str, argument: str) -> None:
    """Raise UserError for a setting that diffusers would ignore, though it may change what the model computes."""
    for name, value in settings.items():
        if name not in known and not name.startswith("_") and value not in (None, False):
            raise UserError(
                f"{argument} has {name}={value!r:.60} in {file}, which diffusers {diffusers.__version__} does not "
                "know: delete it there if the model does not depend on it."
            )


def _parameters(cls: Callable | None) -> Collection[str]:
    """Names of a scheduler class's settings; none for another class, or one whose library is missing."""
    try:
        return [*inspect.signature(cls).parameters] if cls is not None and hasattr(cls, "add_noise") else []
    except ImportError:  # diffusers' stand-in for a class whose library is missing
        return []
