"""plugins=[my_package,path/to/file.py]: the user's own modules, whose names `_target_` may then begin with."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from chrysalis.command.value_types import as_typed_text
from chrysalis.system.errors import UserError, causes, require_path
from chrysalis.system.files import shown
from chrysalis.system.terminal import say
from chrysalis.system.user_code import described, failed_at, load_module

_places: set[Path] = set()  # the files and package folders of all plugins of this process


def load(plugins: str | Iterable[str]) -> tuple[str, ...]:
    """Import each plugin, a package name or a .py file, and print where it comes from.

    Returns:
        The names of the modules: a file's is its stem.

    Raises:
        UserError: a plugin cannot be imported, or has the name of another module.
    """
    names = []
    for place in [plugins] if isinstance(plugins, str) else plugins:
        module = _load_file(place) if place.endswith(".py") else _load_package(place)
        say(f"plugin: {module.__name__} ({shown(Path(module.__file__ or place))})")
        names.append(module.__name__)
        _places.update(Path(folder) for folder in getattr(module, "__path__", [module.__file__ or place]))
    return tuple(names)


def message(error: BaseException) -> str | None:
    """'FILE:LINE: what an error says' for an error that went through a plugin's code; None for any other."""
    for link in causes(error):
        if where := failed_at(link, *_places):
            return f"{where}: {described(link)}"
    return None


def _load_package(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"plugins={as_typed_text(name)} is neither a package nor a .py file: correct the name.")
    if name.partition(".")[0] in sys.stdlib_module_names:  # `_target_=os.system` stays out of reach
        raise UserError(f"plugins={name} is part of Python: name a package or a .py file of your own.")
    return load_module(name, "plugins")


def _load_file(place: str) -> ModuleType:
    """Import a file, once in a process, under its stem, which no other module may have."""
    file = require_path("plugins", place).absolute()
    spec = importlib.util.find_spec(file.stem)
    if spec is not None and spec.origin != str(file):
        raise UserError(f"plugins={place} has the name of another module, {file.stem}: rename the file.")
    return sys.modules.get(file.stem) or load_module(str(file), "plugins")
