"""grid.png of a conditional model: a row for each condition, or each image below the mask or image it is given."""

from collections.abc import Sequence

from chrysalis.data import pixels
from chrysalis.sampling.grids import legible
from chrysalis.sampling.output import MOST_IN_FIGURES, OutputFolder
from chrysalis.sampling.tasks import Sampler, SampleSpec

MOST_ROWS, MOST_COLUMNS = 24, 16  # of several conditions
COLUMNS = 8  # of one condition that is an image


def save_condition_grid(output: OutputFolder, sampler: Sampler, specs: Sequence[SampleSpec]) -> list[str]:
    """Write grid.png and return its name; [] where the images have no conditions that could be shown."""
    request = sampler.request
    spatial = [name for name in ("mask", "image") if request is not None and name in request.values]
    if request is None or (request.rows == 1 and not spatial):
        return []
    n, table = len(specs) // request.rows, []
    if request.rows == 1:
        rows = [(0, specs[k : k + COLUMNS]) for k in range(0, min(n, MOST_IN_FIGURES), COLUMNS)]
    else:
        shown = min(n, MOST_COLUMNS)
        rows = [(row, specs[row * n : row * n + shown]) for row in range(min(request.rows, MOST_ROWS))]
    for row, own in rows:
        cond = request.cond([spec.row for spec in own], [spec.seed for spec in own], sampler.size, "cpu")
        for name in spatial:
            table.append((name, pixels.to_uint8(cond[name]).expand(-1, 3, -1, -1)))
        table.append((request.row_name(row), output.images([spec.name for spec in own])))
    return [output.save_figure(legible(table), "grid", enlarge=False)]
