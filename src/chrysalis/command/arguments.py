"""Paths and texts on the command line, which reach the program as they were typed.

Hydra's grammar gives commas, brackets, quotes and most other signs a meaning, and rejects many letters.
"""

import os
import re
from fnmatch import fnmatchcase

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from chrysalis.system.errors import UserError

PATHS = ("data.path", "data.masks", "data.conditioning_images", "model.pretrained", "condition.text.encoder")
PATHS += ("task.image", "task.mask", "task.base", "task.compare", "mask", "image", "out", "from", "resume")
PATHS += ("plugins", "*features.pretrained", "*features.weights")
PATHS += ("guidance.function", "guidance.*.function", "guidance.*.model", "guidance.*.image", "guidance.*.mask")
PATHS += ("guidance.*.image", "guidance.*.base", "guidance.*.checkpoint", "guidance.colour.target")
TEXTS = ("text", "label", "guidance.*.text", "guidance.*.label", "name", "only", "data.split", "data.*_column")
LISTS = ("text", "label", "mask", "image", "guidance.*negative.*", "task.compare", "plugins")  # several or one


def as_typed(arguments: list[str]) -> list[str]:
    """Quote the values of PATHS and TEXTS that Hydra would read differently from how they were typed.

    A path's ~ is expanded. Values that are quoted already, null, or a list where the key takes one stay as they are; in
    a sweep so do all that Hydra can read.
    """
    swept = any(a in ("-m", "--multirun") or a.lower() == "hydra.mode=multirun" for a in arguments)
    return [_as_typed(a, swept) for a in arguments]


def value_of(argument: str) -> object:
    """The value that Hydra reads in key=value."""
    return OverridesParser.create().parse_override(argument).value()


def quoted(text: str) -> str:
    """A text as the value of an override, quoted if it needs to be."""
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", text, re.ASCII)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{escaped}"'.replace("${", "\\${")


def _as_typed(argument: str, swept: bool) -> str:
    key, sign, text = argument.partition("=")
    name = key.lstrip("+")
    is_path, is_text = (any(fnmatchcase(name, pattern) for pattern in keys) for keys in (PATHS, TEXTS))
    if not sign or not (is_path or is_text) or text in ("", "null") or (name == "resume" and _is_switch(text)):
        return argument
    home = os.path.expanduser(text) if is_path else text
    try:
        read = OverridesParser.create().parse_override(argument)
    except HydraException:
        read = None
    if read is not None and (swept or _is_meant(name, text, read)):
        return argument
    if swept and "," in text:
        raise UserError(
            f"{argument} cannot be read: in a sweep a comma separates values, so quote each of them with double quotes "
            f'inside single ones, as in \'{name}="a, b","c (d)"\'.'
        )
    if read is None and text[0] + text[-1] == "[]" and "," in text and _takes_list(name, home):
        each = [part.strip() for part in text[1:-1].split(",")]
        return f"{key}=[{','.join(quoted(os.path.expanduser(part) if is_path else part) for part in each)}]"
    return f"{key}={quoted(home)}"


def _is_switch(text: str) -> bool:
    return text.strip().lower() in ("true", "false", "null")


def _is_meant(name: str, text: str, read: Override) -> bool:
    """Whether Hydra reads a value as it was meant."""
    if read.is_sweep_override():
        return False
    found = read.value()
    if text[0] + text[-1] in ('""', "''") and len(text) > 1:
        return True
    if isinstance(found, list):
        return _takes_list(name, text)
    if name == "guidance.classifier.label":  # a number for most classifiers
        return True
    return found == text and ("${" not in text or name not in ("text", "label", "guidance.negative.text"))


def _takes_list(name: str, text: str) -> bool:
    """Whether [a,b] is a list for this key, and not a folder called [old]."""
    return any(fnmatchcase(name, pattern) for pattern in LISTS) and not os.path.exists(text)
