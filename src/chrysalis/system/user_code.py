"""Import the user's own Python code; an error in it becomes one sentence that names file and line."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from chrysalis.system.errors import UserError, first_line, require_path
from chrysalis.system.files import shown


def load_module(place: str, key: str, name: str | None = None) -> ModuleType:
    """Import path/to/file.py or package.module, and let it import what lies beside it or in the working folder.

    key: the configuration key that names it, for messages. name: the module's name in sys.modules; None: the file's
    stem. Raises UserError if there is no such file or module, or importing it fails.
    """
    file = require_path(key, place)
    folder = str(file.absolute().parent if file.suffix == ".py" else Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        if file.suffix == ".py":
            if not file.is_file():
                raise UserError(f"{key}: there is no file {place}. Correct the path.")
            return _load_file(file, name or file.stem)
        spec = importlib.util.find_spec(place)
        file = Path(spec.origin) if spec is not None and spec.origin else file
        return importlib.import_module(place)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{shown(Path(error.filename or place))}:{error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):  # not what it imports
            raise UserError(f"{key}: there is no module {place}. Correct the name, or install it.") from error
        raise UserError(f"{failed_at(error, file) or shown(file)}: {described(error)}") from error


def _load_file(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None  # a file whose name ends in .py has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def failed_at(error: BaseException, *places: Path) -> str | None:
    """FILE:LINE of the last line in these files or folders that an error went through; None if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if any(Path(f.filename).absolute().is_relative_to(p.absolute()) for p in places)]
    return f"{shown(Path(own[-1].filename))}:{own[-1].lineno}" if own else None


def described(error: BaseException) -> str:
    """'ValueError: the first line of its message.'"""
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else 'no message'}."
