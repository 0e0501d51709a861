"""How images were made, kept with them, and made again: `sample.py from=image.png`."""

import functools
import hashlib
import io
import itertools
import json
import os
import re
import shlex
from collections.abc import Collection
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from chrysalis.command.arguments import quoted, value_of
from chrysalis.conditions.kinds import KINDS
from chrysalis.data.example import read_bytes
from chrysalis.data.formats import suffixes
from chrysalis.models import location
from chrysalis.models.model import Model
from chrysalis.system import hardware
from chrysalis.system.errors import UserError
from chrysalis.system.files import ELIDED, REPOSITORY, all_public, public
from chrysalis.system.terminal import warn

# Where, on what and how shown they are drawn; none of these changes an image
ELSEWHERE = ("out", "debug", "trainer", "only", "hydra", "from")

OF_A_TASK = ("data", "features")  # that has them among its own settings, if it is task=evaluate

_recalled: dict = {}


def expanded(arguments: list[str]) -> list[str]:
    """With from=image.png among them: the overrides that it was drawn with, under those that were typed now."""
    _recalled.clear()
    asked = [a for a in arguments if a.startswith("from=")]
    path = value_of(asked[-1]) if asked else None
    if not path:
        return arguments
    try:
        with Image.open(io.BytesIO(read_bytes(Path(path)))) as image:
            image, record = image.text["image"], json.loads(image.text["record"])
    except Exception as error:  # a file from anywhere can fail in any way
        raise UserError(f"from={path} is not an image that sample.py drew: it does not say how.") from error
    typed = [a for a in arguments if not a.startswith("from=")]
    values = dict(a.lstrip("+~").partition("=")[::2] for a in typed if not a.startswith("-"))
    kept = [o for o in record["overrides"] if not _replaced(o, values)]
    if elided := next((o for o in kept if ELIDED in o), None):
        key, _, place = elided.lstrip("+").partition("=")
        raise UserError(
            f"from={path} was made with {key}={place}, from outside the folder that was worked in: add {key}=PATH."
        )
    _recalled.update(record, changed=bool({key.split(".")[0] for key in values} - set(ELSEWHERE)))
    other_set = {"seed", "n", "task", "only", *KINDS} & set(values)
    kept += [] if other_set else [f"only={image}"]
    first = next((k for k, a in enumerate(typed) if "=" in a and not a.startswith("-")), len(typed))
    return [*typed[:first], *kept, *typed[first:]]  # flags, with their values, first


def _replaced(override: str, values: dict[str, str]) -> bool:
    """Whether what was typed takes the place of a recorded override: itself, or a group that it belongs to."""
    key = override.lstrip("+~").split("=", 1)[0]
    group, _, rest = key.partition(".")
    if key in values:
        return True
    if group == "guidance" and rest and group in values:
        choices = re.findall(r"\[([^\]]*)\]", values[group]) or values[group].split(",")  # more than one: a sweep
        leaves = set.intersection(*(set(re.findall(r"\w+", choice)) for choice in choices))
        brought = {"custom": ["function"], "cfg": ["scale", "negative"]}  # keys of a leaf outside its own node
        also = [key for leaf in leaves for key in brought.get(leaf, [])]
        return rest.split(".")[0] not in (*leaves, "recurrence", *also)
    return group in ("scheduler", "task") and group in values


def record(cfg: DictConfig, pretrained: str) -> dict:
    """settings: all that the images depend on. overrides: what composes them again. command: the same, to be typed.

    inputs: a digest of the weights and of every file that the settings name, to tell if one has changed since.
    It goes with every image to whoever has that, and names no folder of this machine, see files.public.
    """
    settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    settings = {key: value for key, value in settings.items() if key not in (*ELSEWHERE, *OF_A_TASK)}
    settings["model"]["pretrained"] = pretrained
    for leaf in (settings["guidance"].get("domain"), settings["task"]):
        if leaf and "base" in leaf:
            leaf["base"] = leaf["base"] or location.base_of(str(location.locate(pretrained)))
    if "LOCAL_WORLD_SIZE" in os.environ and not any(o.startswith("out=") for o in HydraConfig.get().overrides.task):
        raise UserError("Under torchrun give out=FOLDER, which all processes share: the default is a time stamp.")
    parsed = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    overrides = [o.input_line for o in parsed if o.key_or_group.split(".")[0] not in ELSEWHERE]
    if not any(o.startswith("model.pretrained=") for o in overrides):
        overrides.append(f"model.pretrained={quoted(pretrained)}")
    found = {
        "settings": settings,
        "command": shlex.join(["python", "sample.py", *overrides]),
        "overrides": overrides,
        "inputs": _inputs(settings),
        "versions": hardware.versions(),
        **({"only": cfg.only} if cfg.only is not None else {}),
    }
    return all_public(found)


def tell_changes(now: dict) -> None:
    """After from=...: warn of what is not as it was when the image was drawn."""
    for name, digest in now["inputs"].items():
        if _recalled.get("inputs", {}).get(name, digest) != digest:
            warn(f"{name} has changed since the image was drawn: the new one will differ from it.")
    was, versions = _recalled.get("versions", {}), hardware.versions()
    if not _recalled.get("changed", True) and _recalled["settings"] != now["settings"]:
        warn("The defaults of this version are others than when the image was drawn: the new one will differ from it.")
    others = [f"{name} {was[name]} then, {versions[name]} now" for name in was if was[name] != versions.get(name)]
    if others:
        warn(f"Drawn with other versions ({'; '.join(others)}): the new image may differ in the last bits.")
    _recalled.clear()


def built(leaf: DictConfig, model: Model):
    """The object of a task or guidance leaf; a leaf that needs the model is a partial call."""
    made = instantiate(leaf)
    return made(model) if isinstance(made, functools.partial) else made


def plain(values: dict) -> dict:
    """Lists and mappings as Python's own."""
    return {key: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for key, v in values.items()}


def terms(guidance: DictConfig) -> dict[str, DictConfig]:
    """The leaves that were composed into `guidance`, by name."""
    return {name: node for name, node in guidance.items() if OmegaConf.is_dict(node) and "_target_" in node}


def _inputs(settings: dict) -> dict[str, str]:
    """{name: digest} of every file that the settings name, of the weights in every model folder and of the images in
    every folder of masks. Files that have the same name for other people, see files.public, are numbered."""
    read = [name for name, kind in KINDS.items() if kind.reads_files]
    groups = {group: settings.get(group) for group in ("model", "task", "guidance", *read)}
    groups["task"] = {key: value for key, value in (groups["task"] or {}).items() if key not in OF_A_TASK}
    negative = (groups["guidance"] or {}).get("negative") or {}
    images = {*_strings([given.get(name) for name in read for given in (groups, negative)])}
    words = {*_strings([negative.get(name) for name in KINDS if name not in read])}
    digests: dict[str, str] = {}
    for value in sorted(set(_strings(groups)) - words - {""}):
        name = value.split(".py:")[0] + ".py" if ".py:" in value else value
        for within, file in _files_of(name, suffixes() if value in images else {".safetensors"}):
            known = f"{public(name)}/{within}" if within else public(name)
            numbered = (f"{known} ({k})" if k > 1 else known for k in itertools.count(1))
            digests[next(n for n in numbered if n not in digests)] = _digest(file)
    return dict(sorted(digests.items()))


def _files_of(name: str, used: Collection[str]) -> list[tuple[str, Path]]:
    """The file of a name, or those in the folder of the name that have the suffixes, by their places in it."""
    try:
        for place in (Path(name).expanduser(), REPOSITORY / name):
            if place.is_file():
                return [("", place)]
            inside = [f for f in sorted(place.rglob("*")) if f.suffix.lower() in used] if place.is_dir() else []
            if inside:
                return [(str(file.relative_to(place)), file) for file in inside]
    except (OSError, RuntimeError):  # a long text is no path, and ~someone no home
        pass
    return []


def _strings(node):
    if isinstance(node, dict):
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)
    elif isinstance(node, str):
        yield node


def _digest(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=12)).hexdigest()
