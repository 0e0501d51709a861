"""Which images a sampling generates: their names, seeds and conditions, and the batches they are generated in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from chrysalis.conditions.request import Request
from chrysalis.system.errors import require_whole


@dataclass(frozen=True)
class SampleSpec:
    """One image to generate.

    name: of its file, without .png. seed: for its start and its stochastic steps. second_seed, fraction: a seed towards
    whose noise the start is turned, and how far (0 to 1). blend_ratio: of the weights between the base model's (0) and
    the model's own (1); None without blending. row: of the conditions in the request.
    """

    name: str
    seed: int
    second_seed: int | None = None
    fraction: float = 0.0
    blend_ratio: float | None = None
    row: int = 0


def for_each_row(specs: Sequence[SampleSpec], request: Request) -> list[SampleSpec]:
    """All specs once for every row of conditions, with the row in their names."""
    if request.rows == 1:
        return list(specs)
    names = [request.file_name(row) for row in range(request.rows)]
    if len({name.casefold() for name in names}) < len(names) or not all(0 < len(name) <= 30 for name in names):
        names = [f"row{row:03d}" for row in range(request.rows)]
    return [replace(spec, name=f"{name}_{spec.name}", row=row) for row, name in enumerate(names) for spec in specs]


def in_batches(specs: Sequence[SampleSpec], batch_size: int) -> list[list[SampleSpec]]:
    """The specs in their order, in batches of one blend ratio each.

    They depend on nothing else, since an image may be rounded differently in other company.
    """
    require_whole("batch_size", batch_size)
    return [
        same[k : k + batch_size]
        for _, group in groupby(specs, key=lambda spec: spec.blend_ratio)
        for same in [list(group)]
        for k in range(0, len(same), batch_size)
    ]
