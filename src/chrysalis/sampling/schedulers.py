"""Samplers by the names people use, each built from the training scheduler's config, and their timetables."""

import copy
import inspect

import diffusers
import torch

from chrysalis.models.training_scheduler import KEPT, NOISE
from chrysalis.system.errors import UserError, require_whole

# From the highest level ("leading" starts where some image is left), in steps that shorten towards the end (Karras
# et al. 2022): even ones end with one far too long, which leaves grain or blur.
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

# diffusers' own implementations of these read eps or v only
NO_X0 = (
    "PNDMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
)

CHOOSE = f"choose one of {', '.join(SCHEDULERS)}."

OTHER_SIGMAS = ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")  # each instead of Karras spacing


def require_known(name: str, key: str) -> None:
    """Refuse a name, as the user set it by `key`, that is neither in the table nor one of diffusers' classes."""
    if name not in SCHEDULERS and not _is_scheduler(name):
        raise UserError(f"{key}={name} is unknown: {CHOOSE[:-1]}, or a scheduler class of diffusers.")


def _is_scheduler(name: object) -> bool:
    return isinstance(name, str) and name.endswith("Scheduler") and inspect.isclass(getattr(diffusers, name, None))


def build(training_scheduler, name: str, **settings):
    """A fresh scheduler for drawing. name: of the table, or a scheduler class of diffusers.

    settings: overrides of its config, such as timestep_spacing; of DDIM also `eta`, the share of DDPM's noise.
    The training scheduler's learned variance is left out: the second half of such a UNet's output is dropped.
    """
    require_known(name, "scheduler")
    kind, defaults = SCHEDULERS.get(name, (name, {"skip_prk_steps": True}))
    eta = settings.pop("eta", 0.0)
    config = {k: v for k, v in training_scheduler.config.items() if k in KEPT or k == "_use_default_values"}
    if str(config.get("variance_type", "")).startswith("learned"):
        config["variance_type"] = "fixed_small"
    taken = _parameters(kind)
    _refuse_settings(kind, taken, settings)
    if float(training_scheduler.alphas_cumprod[-1]) == 0:
        if "rescale_betas_zero_snr" not in taken:
            raise UserError(f"scheduler={name} cannot serve a model with zero terminal SNR: use ddim.")
        config["rescale_betas_zero_snr"] = True  # trained_betas may be so too, and do not say it
    if any(settings.get(key) for key in OTHER_SIGMAS):
        defaults = {"use_karras_sigmas": False} | {k: v for k, v in defaults.items() if k != "use_karras_sigmas"}
    # from_config drops what the training scheduler left at its default, and Heun's default betas are others
    noise = {key: config[key] for key in NOISE if key in config and key in taken}
    # the loop converts; PNDM adds up outputs of several timesteps, which only eps can bear
    if kind == "PNDMScheduler" or (noise["prediction_type"] == "sample" and kind in NO_X0):
        noise["prediction_type"] = "epsilon"
    given = {key: value for key, value in {**noise, **defaults, **settings}.items() if key in taken}
    try:
        scheduler = (LMS if kind == "LMSDiscreteScheduler" else getattr(diffusers, kind)).from_config(config, **given)
    except NotImplementedError as error:
        schedule = str(config.get("beta_schedule"))
        if schedule not in str(error):
            raise UserError(f"scheduler={name} cannot be built: {str(error).strip().splitlines()[0]}") from error
        raise UserError(f"scheduler={name} does not know the model's beta_schedule={schedule}: use ddpm.") from error
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"scheduler={name} cannot be built: {str(error).strip().splitlines()[0]}") from error
    if not torch.allclose(scheduler.alphas_cumprod, training_scheduler.alphas_cumprod, atol=1e-6):
        raise UserError(f"scheduler={name} changes the model's noise levels and cannot serve it: {CHOOSE}")
    if eta:
        _set_eta(scheduler, eta)
    return scheduler


def _parameters(kind: str) -> dict[str, inspect.Parameter]:
    """What the class is built from; refuses one that is not for a DDPM noise schedule, or goes the other way."""
    cls = getattr(diffusers, kind)
    try:
        taken, step = inspect.signature(cls).parameters, inspect.signature(cls.step).parameters
    except ImportError as error:  # diffusers' stand-in for a class whose library is missing
        raise UserError(f"scheduler={kind} cannot be used: {str(error).strip().splitlines()[0]}") from error
    except AttributeError:
        taken, step = {}, {}
    required = [p.name for p in step.values() if p.default is p.empty]
    serves = {"beta_schedule", "prediction_type"} <= set(taken) and required[1:4] == required[1:] and len(required) == 4
    if not serves or "Inverse" in kind:
        raise UserError(
            f"scheduler={kind} serves another kind of model or use (such as flow matching or EDM sigmas), not drawing "
            f"from a DDPM noise schedule: {CHOOSE}"
        )
    return dict(taken)


def _refuse_settings(kind: str, taken: dict, settings: dict) -> None:
    for key in settings:
        if key not in taken:
            raise UserError(f"scheduler.{key} is not a setting of diffusers' {kind}.")
        if key in NOISE:
            raise UserError(f"scheduler.{key} is the model's own and cannot be set.")
    if kind == "PNDMScheduler" and not settings.get("skip_prk_steps", True):
        raise UserError("scheduler.skip_prk_steps=false cannot be used: only PNDM's multistep form can start anywhere.")
    if settings.get("use_flow_sigmas"):
        raise UserError(f"scheduler.use_flow_sigmas is for flow matching, not for a DDPM noise schedule: {CHOOSE}")
    if kind == "UniPCMultistepScheduler" and not settings.get("lower_order_final", True):
        raise UserError("scheduler.lower_order_final=false divides by zero at unipc's last step: leave it true.")


def _set_eta(scheduler, eta: float) -> None:
    """DDIM takes eta at every step, not in its config (Song et al. 2021, eq. 16)."""
    if "eta" not in inspect.signature(scheduler.step).parameters:
        raise UserError(f"scheduler.eta is not a setting of {type(scheduler).__name__}: only ddim has it.")
    if not isinstance(eta, int | float) or not 0 <= eta <= 1:
        raise UserError(f"scheduler.eta={eta} must lie between 0 (deterministic) and 1 (as noisy as DDPM).")
    scheduler.eta = float(eta)


def step_arguments(scheduler, generators: list[torch.Generator]) -> dict:
    """What this scheduler's step takes beside output, timestep and sample."""
    takes = inspect.signature(scheduler.step).parameters
    given = {"generator": generators, "eta": getattr(scheduler, "eta", None)}
    return {name: value for name, value in given.items() if name in takes and value is not None}


class LMS(diffusers.LMSDiscreteScheduler):
    """diffusers' takes its order from the place on the way, which is too high where the history has just begun."""

    def step(self, model_output, timestep, sample, order: int = 4, return_dict: bool = True):
        return super().step(model_output, timestep, sample, min(order, len(self.derivatives) + 1), return_dict)


class Timetable:
    """The steps of one scheduler: where each starts, and fresh copies of the scheduler placed at any of them.

    A full step k goes from level(k) to level(k + 1); a second-order scheduler asks the UNet twice in one.
    """

    def __init__(self, scheduler, steps: int, device: torch.device | str = "cpu"):
        require_whole("steps", steps)
        trained = scheduler.config.num_train_timesteps
        if steps > trained:
            raise UserError(f"steps={steps} must lie between 1 and the {trained} timesteps of the model.")
        self.fresh = copy.deepcopy(scheduler)
        if steps == 1 and "timestep_spacing" in self.fresh.config:
            # the other spacings would take the only step at t = 0, where the noise is all but left as it is
            self.fresh.register_to_config(timestep_spacing="trailing")
        try:
            self.fresh.set_timesteps(steps)
        except (ValueError, TypeError, IndexError) as error:
            raise UserError(f"steps={steps}: {str(error).splitlines()[0]}") from error
        sigmas = getattr(self.fresh, "sigmas", None)
        if sigmas is not None and len(sigmas) > 1 and float(sigmas[0]) == float(sigmas[-1]):
            raise UserError(f"steps={steps}: this scheduler takes no step at all with so few.")
        timesteps, kind = self.fresh.timesteps, type(scheduler).__name__
        if not torch.as_tensor(timesteps).isfinite().all():
            raise UserError(
                f"steps={steps}: {kind} computes timesteps that are not numbers on the model's noise schedule: "
                "choose another scheduler."
            )
        if timesteps.min() < 0 or timesteps.max() > trained - 1:
            raise UserError(f"steps={steps}: the scheduler's settings lead outside the model's {trained} timesteps.")
        if steps == 1 and timesteps.max() < trained / 2:
            raise UserError(f"steps=1: {kind} would start at t={float(timesteps.max()):g}, not at noise: use more.")
        if timesteps.is_floating_point():
            timesteps = timesteps.float()  # some are float64, which Apple GPUs do not have
        self.fresh.timesteps = timesteps.to(device)
        timesteps = list(self.fresh.timesteps)
        self.repeats_first = isinstance(scheduler, diffusers.PNDMScheduler) and len(timesteps) > 2
        if self.repeats_first:  # its second evaluation only corrects the first step: t0, t1, t1, t2, ...
            timesteps = [timesteps[0], *timesteps[2:]]
        self.order = getattr(scheduler, "order", 1)
        self.timesteps = timesteps

    def __len__(self) -> int:
        return -(-len(self.timesteps) // self.order)

    def level(self, step: int) -> torch.Tensor | None:
        """The timestep that full step `step` starts from; None at the end, where images are clean."""
        return self.timesteps[step * self.order] if step < len(self) else None

    def warning(self) -> str | None:
        """A sentence if the first level is far from pure noise, as of diffusers' `leading` steps that divide badly."""
        trained, first = self.fresh.config.num_train_timesteps, float(self.timesteps[0])
        if len(self) < 20 or first > 0.85 * trained:
            return None
        return (
            f"steps={len(self)}: this scheduler would start at t={first:g} of {trained}, where an image is half there "
            f"already. Choose a number that divides {trained}, or another scheduler."
        )

    def leg(self, first: int, last: int) -> tuple[object, list[torch.Tensor]]:
        """A scheduler without history, and the timesteps of full steps first .. last - 1, for one go through them."""
        scheduler = copy.deepcopy(self.fresh)
        begin = first * self.order
        timesteps = self.timesteps[begin : last * self.order]
        if self.repeats_first and len(timesteps) > 1:
            timesteps = [timesteps[0], timesteps[1], *timesteps[1:]]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        return scheduler, timesteps

    def evaluations(self, legs) -> int:
        """How often the UNet is asked for one image."""
        return sum(len(self.leg(first, last)[1]) for first, last in legs)


def repeated(legs: list[tuple[int, int]], times: int, length: int = 1) -> list[tuple[int, int]]:
    """The same way in stretches of at most `length` full steps, each gone through `times` times.

    length=1 is the recurrence of universal guidance (Bansal et al. 2023), longer ones the resampling jumps of
    RePaint (Lugmayr et al. 2022, arXiv 2201.09865).
    """
    if times == 1:
        return legs
    stretches = [(k, min(k + length, last)) for first, last in legs for k in range(first, last, length)]
    return [stretch for stretch in stretches for _ in range(times)]
