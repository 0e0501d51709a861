"""The condition kinds, one file each; a new file in this folder needs no registration."""

import importlib
import pkgutil

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kind import KINDS, Kind

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def kinds_of(conditioner: Conditioner | None) -> dict[str, Kind]:
    """The kinds of a model's conditions, bound to their parts; empty for an unconditional model."""
    parts = {} if conditioner is None else conditioner.parts
    return {name: KINDS[name].of_part(part).bound(part) for name, part in parts.items()}
