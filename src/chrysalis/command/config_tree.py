"""Configurations as Python's own dicts, lists and objects."""

from collections.abc import Iterator
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf


def as_dict(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """A configuration as nested dicts and lists; raises OmegaConf's errors for missing or unresolvable values."""
    plain = OmegaConf.to_container(cfg, resolve=resolve, throw_on_missing=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def walk(node: object, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of nested dicts and lists, for each of them and everything in them: ('data.size[0]', 64)."""
    if key:
        yield key, node
    if isinstance(node, dict):
        for name, value in node.items():
            yield from walk(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from walk(value, f"{key}[{i}]")


def instantiate(node: DictConfig, **more: Any) -> Any:
    """Call a node's _target_; its lists and mappings are Python's own, which checkpoints can hold."""
    return hydra.utils.instantiate(node, _convert_="all", **more)
