"""Check values of a configuration against annotations of parameters, and put both in words for messages."""

import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Interval

from chrysalis.system.ranges import LARGEST

ANY_NUMBER = Interval(ge=-LARGEST, le=LARGEST)
LISTS = (list, tuple, Sequence, Iterable, Collection, set)
STORED = {bool: bool, str: str, Path: str, dict: dict, Mapping: dict, NoneType: NoneType}  # annotation: type of a value
WORDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
WORDS |= {Path: "a path", dict: "a mapping", Mapping: "a mapping", NoneType: "null"}


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of an annotated type; true where the annotation says too little to decide."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Any, object):
        return True
    if kind in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if kind is Annotated:
        return _fits_number(value, inner[0], ends) if (ends := _interval(hint)) else fits(value, inner[0])
    if kind is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if kind in (int, float):
        return _fits_number(value, kind, ANY_NUMBER)
    if kind in STORED:
        return isinstance(value, STORED[kind])
    if kind in LISTS:
        return _fits_list(value, kind, inner)
    return hint is not kind or not isinstance(hint, type) or isinstance(value, dict | hint)  # built from a mapping


def _interval(hint: Any) -> Interval | None:
    return next((each for each in hint.__metadata__ if isinstance(each, Interval)), None)


def _fits_number(value: Any, kind: type, ends: Interval) -> bool:
    if not isinstance(value, kind | int) or isinstance(value, bool):
        return False
    bounds = ((operator.ge, ends.ge), (operator.gt, ends.gt), (operator.le, ends.le), (operator.lt, ends.lt))
    return all(bound is None or compare(value, bound) for compare, bound in bounds)


def _fits_list(value: Any, kind: object, inner: tuple) -> bool:
    if isinstance(value, str):
        return kind not in (list, tuple, set) and all(fits(value, each) for each in inner[:1])  # a single value
    if not isinstance(value, list):
        return False
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(each, inner[0] if inner else Any) for each in value)


def described(hint: Any) -> str:
    """A type in words: 'a whole number or null', 'constant, cosine or linear', 'a list of strings'."""
    *others, last = dict.fromkeys(_alternatives(hint))
    return f"{', '.join(others)} or {last}" if others else last


def _alternatives(hint: Any) -> list[str]:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        own = [each for each in inner if not (each is int and float in inner)]
        return sorted((words for each in own for words in _alternatives(each)), key=lambda words: words == "null")
    if kind is Annotated:
        return [f"{described(inner[0])} {_range(ends)}" if (ends := _interval(hint)) else described(inner[0])]
    if kind is Literal:
        return [as_typed_text(each) for each in inner]
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        each = [*dict.fromkeys(map(described, inner))]
        return [f"a list of {len(inner)} {_plural(*each)}" if len(each) == 1 else f"a list: {', '.join(each)}"]
    if kind in LISTS:
        return [f"a list of {_plural(described(inner[0]))}" if inner and inner[0] is not Any else "a list"]
    return [WORDS.get(kind) or (f"a {hint.__name__}" if isinstance(hint, type) else str(hint))]


def _plural(words: str) -> str:
    return re.sub(r"^a (whole number|number|string)\b", r"\1s", words)


def _range(ends: Interval) -> str:
    """'from 1 to 64', 'above 0 and at most 1', 'of at least 1'."""
    if None not in (ends.ge, ends.le):
        return f"from {ends.ge} to {ends.le}"
    words = {"above": ends.gt, "of at least": ends.ge, "below": ends.lt, "at most": ends.le}
    return " and ".join(f"{word} {end}" for word, end in words.items() if end is not None)


def as_typed_text(value: object) -> str:
    """A value as one would type it, on one line of up to 100 characters."""
    if isinstance(value, list):
        text = f"[{','.join(as_typed_text(each) for each in value[:20])}]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = repr(value)[1:-1] if isinstance(value, str) and not value.isprintable() else f"{value}"
    return text if len(text) <= 100 else f"{text[:97]}..."
