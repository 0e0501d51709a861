"""Records as nested dicts: their values by key, and texts that name no folder of this machine and no user."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chrysalis.system.files import REPOSITORY

ELIDED = ".../"  # stands for the folders above a path outside the working folder
_PART = r"[^/\n'\",=\[\]{}()<>|]"  # a character of a folder's name, in a command or a configuration
_STARTS = r"(?<![\w.~/\\-])"


def public(text: str) -> str:
    """Replace each absolute path in a text by one relative to the working folder or the repository, else by .../NAME.

    Relative paths stay as they are.
    """
    home = Path.home()
    for here in (Path.cwd(), REPOSITORY):
        if here != home and home.is_relative_to(here):  # relative to such a folder, a path still names the user
            continue
        text = re.sub(rf"{_STARTS}{re.escape(str(here))}/(?={_PART})", "", text)
    text = re.sub(rf"{_STARTS}{re.escape(str(home))}(?![\w.-])", "~", text)
    return re.sub(rf"{_STARTS}(?!//)(?:~[\w.-]*/|/{_PART}+/)(?:{_PART}+/)*(?={_PART})", ELIDED, text)


def all_public(node: Any) -> Any:
    """Apply `public` to every text in nested dicts and lists, keys included."""
    if isinstance(node, dict):
        return {public(key) if isinstance(key, str) else key: all_public(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [all_public(value) for value in node]
    return public(node) if isinstance(node, str) else node


def leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'data.batch_size': 4, ...}: every value that is not a mapping, by its key."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
