"""How much validation and sampling a run can afford: a sixth of its training time, or 45 s if that is more."""

from dataclasses import dataclass, fields, replace

SECONDS, FRACTION = 45.0, 1 / 6  # the larger of the two is the budget


@dataclass(frozen=True)
class Measuring:
    """Validation on images x timesteps every so many steps; grids of `samples`, each of sample_steps forward passes."""

    images: int
    timesteps: int
    images_every: int
    samples: int
    sample_steps: int
    samples_every: int

    def forward_passes(self, steps: int, conditions: int = 1) -> tuple[int, int]:
        """The forward passes (for validation, for sampling), counted in images, in a run of so many steps.

        The base model is measured once, then raw and EMA weights; the latter under each of `conditions`.
        """
        count = -(-steps // self.images_every)
        validation = self.images * self.timesteps * (1 + count * (1 + conditions))
        grids = 1 + -(-steps // self.samples_every)
        return validation, self.samples * self.sample_steps * grids


KEYS = {
    "images": "callbacks.validation.n_images",
    "timesteps": "callbacks.validation.timesteps",
    "images_every": "callbacks.validation.every_n_train_steps",
    "samples": "callbacks.samples.n",
    "sample_steps": "callbacks.samples.steps",
    "samples_every": "callbacks.samples.every_n_train_steps",
}
LEAST = {"images": 8, "timesteps": 2, "samples": 2, "sample_steps": 8}
VALIDATION, SAMPLING = ("images_every", "images", "timesteps"), ("samples_every", "samples", "sample_steps")


def budget(training: float) -> float:
    """Seconds that measuring may take in a run with so many seconds of training."""
    return max(SECONDS, FRACTION * training)


def affordable(
    full: Measuring,
    steps: int,
    seconds_per_pass: float,
    training: float,
    pinned: set[str],
    conditions: int,
    other_passes: int = 0,
) -> Measuring:
    """Make `full` coarser by halves until it keeps to the budget or is as coarse as allowed.

    Whichever of validation and sampling takes longer is made coarser: first rarer, while there are two measurements
    before the end, then whatever is furthest above its LEAST. Because of the halves, a slightly different speed seldom
    gives a different result.

    seconds_per_pass: time of a forward pass, per image. training: seconds of training. pinned: those of KEYS that the
    user chose, which are kept. conditions: number of those that the EMA weights are measured under. other_passes:
    forward passes for other measurements, which count but are not changed here.
    """
    reduced, most = full, budget(training)
    while seconds_per_pass * (sum(reduced.forward_passes(steps, conditions)) + other_passes) > most:
        validation, sampling = reduced.forward_passes(steps, conditions)
        longer, shorter = (VALIDATION, SAMPLING) if validation >= sampling else (SAMPLING, VALIDATION)
        coarser = _halved(reduced, longer, steps, pinned) or _halved(reduced, shorter, steps, pinned)
        if coarser is None:
            break
        reduced = coarser
    return reduced


def _halved(measuring: Measuring, group: tuple[str, ...], steps: int, pinned: set[str]) -> Measuring | None:
    every, *sizes = group
    if KEYS[every] not in pinned and getattr(measuring, every) * 2 < steps:
        return replace(measuring, **{every: getattr(measuring, every) * 2})
    names = [name for name in sizes if KEYS[name] not in pinned and getattr(measuring, name) > LEAST[name]]
    if not names:
        return None
    name = max(names, key=lambda name: getattr(measuring, name) / LEAST[name])
    return replace(measuring, **{name: max(LEAST[name], getattr(measuring, name) // 2)})


def changes(full: Measuring, reduced: Measuring) -> dict[str, int]:
    """{key: value} of the settings in which `reduced` differs from `full`."""
    return {
        KEYS[f.name]: getattr(reduced, f.name)
        for f in fields(reduced)
        if getattr(reduced, f.name) != getattr(full, f.name)
    }
