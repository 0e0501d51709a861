"""`_target_` in a configuration: which classes and functions it may name, and what parameters they take."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from hydra.utils import get_object

from chrysalis.command.value_types import as_typed_text
from chrysalis.system.errors import UserError

ROOTS = ("chrysalis", "torch.optim", "lightning", "diffusers")  # and the modules of plugins=[...]


def nodes(node: object, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, node) of every node with a _target_, at any depth: Hydra would build each."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from nodes(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from nodes(value, f"{key}[{i}]")


def arguments(key: str, node: dict[str, Any], plugins: tuple[str, ...]) -> Iterator[tuple[str, object, object]]:
    """Yield (key, value, annotation) of every argument of a node with a _target_.

    Raises:
        UserError: the target may not be named or does not exist, or has no such parameter.
    """
    target = _found(f"{key}._target_" if key else "_target_", node["_target_"], plugins)
    hints, known = _parameters(target)
    for name, value in node.items():
        if str(name).startswith("_"):
            if name not in ("_target_", "_partial_") or not isinstance(value, bool | str):
                raise UserError(f"{key}.{name} cannot be given: leave it out.")
            continue
        if known is not None and name not in known:
            raise UserError(f"{key}.{name} is not a setting of {node['_target_']}: it has {', '.join(known)}.")
        if not (isinstance(value, dict) and "_target_" in value) and not (key == "model" and name == "pretrained"):
            yield f"{key}.{name}", value, hints.get(name, Any)


def _found(key: str, path: object, plugins: tuple[str, ...]) -> Callable[..., Any]:
    """The class or function of this name, if it is in a plugin, or defined in ROOTS and not merely imported there."""
    roots, own = (tuple(f"{root}." for root in names) for names in (ROOTS, plugins))
    refused = UserError(
        f"{key}={as_typed_text(path)} cannot be used: only classes of {', '.join(ROOTS)} or of plugins=[...] can."
    )
    if not isinstance(path, str) or not path.startswith((*roots, *own)):
        raise refused
    try:
        found = get_object(path)
    except Exception as error:  # importing can raise anything
        raise UserError(f"{key}={as_typed_text(path)} does not exist: correct the name, or leave it out.") from error
    if not callable(found) or not (path.startswith(own) or f"{getattr(found, '__module__', '')}.".startswith(roots)):
        raise refused
    return found


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, object], list[str] | None]:
    """({parameter: annotation}, names of the parameters); None for the names where it takes any others too.

    A function's **keywords go to the class that it returns, a constructor's to those of its base classes.
    """
    hints: dict[str, object] = {}
    names, is_open = [], True
    returned = _hints(target).get("return")
    places = _constructors(target) if inspect.isclass(target) else [target]
    if not inspect.isclass(target) and inspect.isclass(returned) and _takes_more(target):
        places += _constructors(returned)
    for place in places:
        try:
            parameters = list(inspect.signature(place).parameters.values())
        except (TypeError, ValueError):
            return hints, None
        own = _hints(place.__init__ if inspect.isclass(place) else place)
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        hints = own | {name: hint for name, hint in hints.items() if hint is not Any}
        is_open = _takes_more(place)
        if not is_open:
            break
    return hints, None if is_open else list(dict.fromkeys(names))


def _constructors(cls: type) -> list[Callable[..., Any]]:
    return [base for base in cls.__mro__ if "__init__" in vars(base)]


def _takes_more(call: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(call).parameters.values())


def _hints(call: object) -> dict[str, object]:
    try:
        return get_type_hints(call, include_extras=True)
    except Exception:  # names that only a type checker imports, or no function at all
        return {}
