"""Paths and texts on the command line, which reach the program as they were typed.

Hydra's grammar gives commas, brackets, quotes and most other signs a meaning, and rejects many letters.
"""

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from chrysalis.system.errors import UserError

# the condition kinds, by their files: importing them would import torch, for --help too
KINDS = tuple(file.stem for file in Path(__file__).parents[1].glob("conditions/kinds/[!_]*.py"))
CONDITIONS = (*KINDS, *(f"guidance.negative.{kind}" for kind in KINDS))
PATHS = ("data.path", "data.masks", "data.conditioning_images", "model.pretrained", "condition.text.encoder")
PATHS += ("task.image", "task.mask", "task.base", "task.compare", "out", "from", "resume", "plugins")
PATHS += ("*features.pretrained", "*features.weights", "guidance.function", "guidance.*.function", "guidance.*.model")
PATHS += ("guidance.*.image", "guidance.*.mask", "guidance.*.base", "guidance.*.checkpoint", "guidance.colour.target")
TEXTS = (*CONDITIONS, "guidance.*.text", "guidance.*.label", "name", "only", "data.split", "data.*_column")
LISTS = (*CONDITIONS, "task.compare", "plugins")  # several values, or one


def is_sweep(arguments: list[str]) -> bool:
    """Whether a command starts a sweep."""
    return any(a in ("-m", "--multirun") or a.lower() == "hydra.mode=multirun" for a in arguments)


def as_typed(arguments: list[str]) -> list[str]:
    """Quote the values of PATHS and TEXTS that Hydra would read differently from how they were typed.

    A path's ~ is expanded. Values that are quoted already, null, or a list where the key takes one stay as they are; in
    a sweep so do all that Hydra can read.
    """
    swept = is_sweep(arguments)
    return [_as_typed(a, swept) for a in arguments]


def value_of(argument: str) -> object:
    """The value that Hydra reads in key=value."""
    return OverridesParser.create().parse_override(argument).value()


def quoted(text: str) -> str:
    """A text as the value of an override, quoted if it needs to be."""
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", text, re.ASCII)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    return QuotedString(text, Quote.double).with_quotes().replace("${", "\\${")


def _as_typed(argument: str, swept: bool) -> str:
    key, sign, text = argument.partition("=")
    name = key.lstrip("+")
    is_path = _matches(name, PATHS)
    is_switch = name == "resume" and text.strip().lower() in ("true", "false")
    if not sign or not (is_path or _matches(name, TEXTS)) or text in ("", "null") or is_switch:
        return argument
    try:
        read = OverridesParser.create().parse_override(argument)
        if swept or _is_meant(name, text, read):
            return argument
    except HydraException:
        read = None
    if swept and "," in text:
        raise UserError(
            f"{argument} cannot be read: in a sweep a comma separates values, so quote each of them with double quotes "
            f'inside single ones, as in \'{name}="a, b","c (d)"\'.'
        )
    home = os.path.expanduser if is_path else str
    if read is None and text[0] + text[-1] == "[]" and "," in text and _takes_list(name, text):
        return f"{key}=[{','.join(quoted(home(part.strip())) for part in text[1:-1].split(','))}]"
    return f"{key}={quoted(home(text))}"


def _is_meant(name: str, text: str, read: Override) -> bool:
    """Whether Hydra reads a value as it was meant."""
    if read.is_sweep_override():
        return False
    found = read.value()
    if (text[0] + text[-1] in ('""', "''") and len(text) > 1) or name == "guidance.classifier.label":  # often a number
        return True
    if isinstance(found, list):
        return _takes_list(name, text)
    return found == text and ("${" not in text or name not in CONDITIONS)


def _takes_list(name: str, text: str) -> bool:
    """Whether [a,b] is a list for this key, and not a folder called [old]."""
    return _matches(name, LISTS) and not os.path.exists(text)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
