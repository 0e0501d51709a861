"""Values of a configuration against the annotations of parameters, and both in words."""

import sys
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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
        return fits(value, inner[0])
    if kind is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:  # an integer may be larger than any float; nan compares false
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint in (str, Path):
        return isinstance(value, str)
    if (kind or hint) in (dict, Mapping):
        return isinstance(value, dict)
    if (kind or hint) in LISTS:
        return _fits_list(value, kind or hint, inner)
    if kind is None and isinstance(hint, type):
        return isinstance(value, dict | hint)  # an object is built from a mapping
    return True


def _fits_list(value: object, kind: object, inner: tuple) -> bool:
    if isinstance(value, str):
        return kind not in (list, tuple, set) and inner[:1] in ((), (str,))  # a single value
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
        return _parts(inner[0])
    if kind is Literal:
        return [str(each).lower() if isinstance(each, bool) else str(each) for each in inner]
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return [f"a list of {len(inner)}: {', '.join(described(each) for each in inner)}"]
    if (kind or hint) in LISTS:
        several = {"a whole number": "whole numbers", "a number": "numbers", "a text": "texts"}
        what = described(inner[0]) if inner and inner[0] is not Any else ""
        return [f"a list of {several.get(what, what)}" if what else "a list"]
    if (kind or hint) in WORDS:
        return [WORDS[kind or hint]]
    return [f"a {hint.__name__}"] if isinstance(hint, type) else [str(hint)]


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
