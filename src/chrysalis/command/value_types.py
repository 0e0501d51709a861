"""Values of a configuration against the annotations of parameters, and both in words."""

import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Interval

from chrysalis.system.ranges import LARGEST

LISTS = (list, tuple, Sequence, Iterable, Collection, set)
WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}
WORDS |= {dict: "a mapping", Mapping: "a mapping", type(None): "null", None: "null"}


def fits(value: object, hint: object) -> bool:
    """Whether a value is of an annotated type; true where the annotation says too little to decide."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return True
    if kind in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if kind is Annotated:
        return _fits_number(value, inner[0], *_ends(inner[1:])) if inner[0] in (int, float) else fits(value, inner[0])
    if kind is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        return _fits_number(value, hint, Interval(ge=-LARGEST))
    if hint in (str, Path):
        return isinstance(value, str)
    if (kind or hint) in (dict, Mapping):
        return isinstance(value, dict)
    if (kind or hint) in LISTS:
        return _fits_list(value, kind or hint, inner)
    if kind is None and isinstance(hint, type):
        return isinstance(value, dict | hint)  # an object is built from a mapping
    return True


def _fits_number(value: object, kind: object, *intervals: Any) -> bool:
    numbers = (int,) if kind is int else (int, float)
    if not isinstance(value, numbers) or isinstance(value, bool):
        return False
    for each in intervals:
        above = value >= each.ge if each.ge is not None else each.gt is None or value > each.gt
        below = value < each.lt if each.lt is not None else value <= (LARGEST if each.le is None else each.le)
        if not (above and below):  # nan compares false
            return False
    return True


def _ends(metadata: Iterable[object]) -> list[Interval]:
    return [each for each in metadata if isinstance(each, Interval)]


def _fits_list(value: object, kind: object, inner: tuple) -> bool:
    if isinstance(value, str):
        return kind not in (list, tuple, set) and all(fits(value, each) for each in inner[:1])  # a single value
    if not isinstance(value, list):
        return False
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(fits(v, each) for v, each in zip(value, inner, strict=True))
    return all(fits(v, inner[0] if inner else Any) for v in value)


def described(hint: object) -> str:
    """A type in words: 'a whole number or null', 'constant, cosine or linear', 'a list of texts'."""
    return _joined(list(dict.fromkeys(_parts(hint))))


def _parts(hint: object) -> list[str]:
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        own = [each for each in inner if not (each is int and float in inner)]
        return sorted((part for each in own for part in _parts(each)), key=lambda part: part == "null")
    if kind is Annotated:
        return [" ".join([*_parts(inner[0]), *map(_range, _ends(inner[1:]))])]
    if kind is Literal:
        return [str(each).lower() if isinstance(each, bool) else str(each) for each in inner]
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        each = {described(part): None for part in inner}
        return [f"a list of {len(inner)} {_several(*each)}" if len(each) == 1 else f"a list: {', '.join(each)}"]
    if (kind or hint) in LISTS:
        what = described(inner[0]) if inner and inner[0] is not Any else ""
        return [f"a list of {_several(what)}" if what else "a list"]
    if (kind or hint) in WORDS:
        return [WORDS[kind or hint]]
    return [f"a {hint.__name__}"] if isinstance(hint, type) else [str(hint)]


def _several(what: str) -> str:
    return re.sub(r"^a (whole number|number|text)\b", r"\1s", what)


def _range(ends: Interval) -> str:
    """'from 1 to 64', 'above 0 and at most 1', 'of at least 1'."""
    if None not in (ends.ge, ends.le):
        return f"from {ends.ge} to {ends.le}"
    least = f"above {ends.gt}" if ends.gt is not None else "" if ends.ge is None else f"of at least {ends.ge}"
    most = f"below {ends.lt}" if ends.lt is not None else "" if ends.le is None else f"at most {ends.le}"
    return " and ".join(filter(None, (least, most)))


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def as_typed_text(value: object) -> str:
    """A value as one would type it, on one line of up to 100 characters."""
    if isinstance(value, list):
        text = f"[{','.join(as_typed_text(v) for v in value[:20])}]"
    elif value is None:
        text = "null"
    elif isinstance(value, bool):
        text = "true" if value else "false"
    else:
        text = repr(value)[1:-1] if isinstance(value, str) and not value.isprintable() else f"{value}"
    return text if len(text) <= 100 else f"{text[:97]}..."
