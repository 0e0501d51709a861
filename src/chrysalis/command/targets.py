"""`_target_` in a configuration: which classes and functions it may name, and what parameters they take."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from hydra.utils import get_object

from chrysalis.command.value_types import as_typed_text
from chrysalis.system.errors import UserError

ROOTS = ("chrysalis", "torch.optim", "lightning", "diffusers")  # and the modules of plugins=[...]


def arguments(key: str, node: dict[str, Any], plugins: tuple[str, ...]) -> Iterator[tuple[str, object, object]]:
    """Yield (key, value, annotation) of every argument of a node with a _target_, except those that are such nodes.

    Raises:
        UserError: the target may not be named or does not exist, or has no such parameter.
    """
    hints, is_open = _parameters(_found(f"{key}._target_", node["_target_"], plugins))
    for name, value in node.items():
        if str(name).startswith("_"):
            if name not in ("_target_", "_partial_") or not isinstance(value, bool | str):
                raise UserError(f"{key}.{name} cannot be given: leave it out.")
            continue
        if not is_open and name not in hints:
            raise UserError(f"{key}.{name} is not a setting of {node['_target_']}: choose from {', '.join(hints)}.")
        if not (isinstance(value, dict) and "_target_" in value):
            yield f"{key}.{name}", value, hints.get(name, Any)


def _found(key: str, path: object, plugins: tuple[str, ...]) -> Callable[..., Any]:
    """The class or function of this name, if it is in a plugin, or defined in ROOTS and not merely imported there."""
    roots, own = (tuple(f"{root}." for root in names) for names in (ROOTS, plugins))
    given = f"{key}={as_typed_text(path)}"
    refused = UserError(f"{given} cannot be used: name a class of {', '.join(ROOTS)} or of plugins=[...].")
    if not isinstance(path, str) or not path.startswith((*roots, *own)):
        raise refused
    try:
        found = get_object(path)
    except Exception as error:  # importing can raise anything
        raise UserError(f"{given} does not exist: correct the name, or leave it out.") from error
    if not callable(found) or not (path.startswith(own) or f"{getattr(found, '__module__', '')}.".startswith(roots)):
        raise refused
    return found


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, object], bool]:
    """({parameter: annotation}, whether it takes any others too).

    A function's **keywords go to the class that it returns, a constructor's to those of its base classes.
    """
    returned = _hints(target).get("return")
    places = [target] if not inspect.isclass(target) else []
    places += [base for cls in (target, returned) if inspect.isclass(cls) for base in cls.__mro__]
    known: dict[str, object] = {}
    for place in places:
        if inspect.isclass(place) and "__init__" not in vars(place):
            continue
        try:
            parameters = inspect.signature(place).parameters.values()
        except (TypeError, ValueError):  # code in C
            break
        hints = _hints(place.__init__ if inspect.isclass(place) else place)
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and known.get(p.name, Any) is Any:
                known[p.name] = hints.get(p.name, Any)
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return known, False
    return known, True


def _hints(call: object) -> dict[str, object]:
    try:
        return get_type_hints(call, include_extras=True)
    except Exception:  # names that only a type checker imports, or no function at all
        return {}
