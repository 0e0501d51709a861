"""What a run spends on validation and sample grids, held to a sixth of its training time or 45 s."""

from dataclasses import dataclass, fields, replace

SECONDS, SHARE = 45.0, 1 / 6  # the larger of the two may be spent


@dataclass(frozen=True)
class Measuring:
    """images x timesteps triples every so many steps; grids of `samples`, each of sample_steps forward passes."""

    images: int
    timesteps: int
    images_every: int
    samples: int
    sample_steps: int
    samples_every: int

    def passes(self, steps: int, conditions: int = 1) -> tuple[int, int]:
        """(of validation, of sampling): forward passes, counted in images, in a run of so many steps.

        The base model is measured once, then raw and EMA weights; the latter under each of `conditions`.
        """
        often = -(-steps // self.images_every)
        validation = self.images * self.timesteps * (1 + often * (1 + conditions))
        grids = 1 + -(-steps // self.samples_every)
        return validation, self.samples * self.sample_steps * grids


KEYS = {
    "images": "callbacks.validation.n_images",
    "timesteps": "callbacks.validation.bins",
    "images_every": "callbacks.validation.every_n_train_steps",
    "samples": "callbacks.samples.n",
    "sample_steps": "callbacks.samples.steps",
    "samples_every": "callbacks.samples.every_n_train_steps",
}
LEAST = {"images": 8, "timesteps": 2, "samples": 2, "sample_steps": 8}
VALIDATION, SAMPLING = ("images_every", "images", "timesteps"), ("samples_every", "samples", "sample_steps")


def budget(training: float) -> float:
    """Seconds that measuring may take in a run with so many seconds of training."""
    return max(SECONDS, SHARE * training)


def planned(
    full: Measuring,
    steps: int,
    seconds_a_pass: float,
    training: float,
    asked: set[str],
    conditions: int,
    beside: int = 0,
) -> Measuring:
    """`full` where it keeps to the budget; else coarser by halves until it does, or as coarse as may be.

    asked: the KEYS that the user chose, which are kept. beside: forward passes that are not planned here.
    Whichever of validation and sampling takes longer is made coarser: first rarer, while there are two
    measurements before the end, then whatever is furthest above its LEAST. Halves keep a slightly other time from
    giving a slightly other plan.
    """
    plan, most = full, budget(training)
    while seconds_a_pass * (sum(plan.passes(steps, conditions)) + beside) > most:
        validation, sampling = plan.passes(steps, conditions)
        groups = (VALIDATION, SAMPLING) if validation >= sampling else (SAMPLING, VALIDATION)
        coarser = next(filter(None, (_halved(plan, group, steps, asked) for group in groups)), None)
        if coarser is None:
            break
        plan = coarser
    return plan


def _halved(plan: Measuring, group: tuple[str, ...], steps: int, asked: set[str]) -> Measuring | None:
    every, *sizes = group
    if KEYS[every] not in asked and getattr(plan, every) * 2 < steps:
        return replace(plan, **{every: getattr(plan, every) * 2})
    above = {
        name: getattr(plan, name) / LEAST[name]
        for name in sizes
        if KEYS[name] not in asked and getattr(plan, name) > LEAST[name]
    }
    if not above:
        return None
    name = max(above, key=above.get)
    return replace(plan, **{name: max(LEAST[name], getattr(plan, name) // 2)})


def changes(full: Measuring, plan: Measuring) -> dict[str, int]:
    """{key: value} of what is coarser."""
    return {KEYS[f.name]: getattr(plan, f.name) for f in fields(plan) if getattr(plan, f.name) != getattr(full, f.name)}
