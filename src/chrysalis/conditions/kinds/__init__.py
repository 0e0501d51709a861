"""The condition kinds, one file each; a new file in this folder needs no registration."""

import importlib
import pkgutil

from chrysalis.conditions.kind import KINDS as KINDS

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
