"""The record of how images were generated, and `sample.py from=image.png`, which generates them again."""

import functools
import hashlib
import io
import itertools
import json
import re
import shlex
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

from chrysalis.command.arguments import quoted, value_of
from chrysalis.command.config_tree import as_dict, instantiate, walk
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kinds import KINDS
from chrysalis.conditions.request import Request
from chrysalis.data.formats import read_bytes, suffixes
from chrysalis.models import location
from chrysalis.models.model import Model
from chrysalis.sampling.record import SamplingRecord
from chrysalis.system import hardware
from chrysalis.system.errors import UserError
from chrysalis.system.files import REPOSITORY
from chrysalis.system.records import ELIDED, all_public, public
from chrysalis.system.terminal import say, warn

NO_EFFECT = ("out", "debug", "trainer", "only", "hydra", "from")  # keys that change no image, precision apart
TASK_GROUPS = ("data", "features")  # groups that task=evaluate has among its own settings

_earlier_record: dict[str, Any] = {}  # the record of the image that from=... names


def expanded(arguments: list[str]) -> list[str]:
    """Replace from=IMAGE.png by the overrides that generated the image, before those typed now, which win."""
    _earlier_record.clear()
    path = value_of([a for a in arguments if a.startswith("from=")][-1])
    if not path:
        return arguments
    try:
        with Image.open(io.BytesIO(read_bytes(Path(str(path))))) as file:
            text = getattr(file, "text", {})  # only PNG files have it
        image, record = text["image"], json.loads(text["record"])
    except Exception as error:  # a file from anywhere can fail in any way
        remedy = "give a PNG file that sample.py wrote"
        raise UserError(f"from={path} has no record of how it was generated: {remedy}.") from error
    typed = [a for a in arguments if not a.startswith("from=")]
    pairs = (a.lstrip("+~").partition("=") for a in typed if not a.startswith("-"))
    values = {key: value for key, _, value in pairs}
    kept = [o for o in record["overrides"] if not _replaced(o, values)]
    if elided := next((o for o in kept if ELIDED in o), None):
        key, _, place = elided.lstrip("+").partition("=")
        raise UserError(f"from={path} was made with {key}={place}, from outside the working folder: add {key}=PATH.")
    if code := next((o for o in kept if o.lstrip("+").startswith("plugins")), None):
        raise UserError(f"from={path} was made with {code}, which runs code: add {code} if you trust it.")
    _earlier_record.update(record, changed=bool({key.split(".")[0] for key in values} - set(NO_EFFECT)))
    other_set = {"seed", "n", "task", "only", *KINDS} & set(values)
    kept += [] if other_set else [f"only={image}"]
    first = next((k for k, a in enumerate(typed) if "=" in a and not a.startswith("-")), len(typed))
    return [*typed[:first], *kept, *typed[first:]]  # flags, with their values, first


def _replaced(override: str, values: dict[str, str]) -> bool:
    """Whether a typed override replaces a recorded one: the same key, or the group that it belongs to."""
    key = override.lstrip("+~").split("=", 1)[0]
    group, _, rest = key.partition(".")
    if group == "guidance" and rest and group in values:
        choices = re.findall(r"\[([^\]]*)\]", values[group]) or values[group].split(",")  # several in a sweep
        options = set.intersection(*(set(re.findall(r"\w+", choice)) for choice in choices))
        brought = {"custom": ["function"], "cfg": ["scale", "negative"]}  # keys of an option outside its own node
        kept = {"recurrence", *options, *(also for option in options for also in brought.get(option, []))}
        return key in values or rest.split(".")[0] not in kept
    return key in values or (group in ("scheduler", "task") and group in values)


def sampling_record(cfg: DictConfig, pretrained: str) -> SamplingRecord:
    """Return the record of how this configuration and model generate images, and warn of changes.

    It is stored in every image, and names no folder of this machine, see system/records.py. The changes are those since
    the image of from=IMAGE was generated.
    """
    settings: Any = {key: value for key, value in as_dict(cfg).items() if key not in (*NO_EFFECT, *TASK_GROUPS)}
    settings["model"]["pretrained"] = pretrained
    for node in (settings["guidance"].get("domain"), settings["task"]):
        if node and "base" in node:
            node["base"] = node["base"] or location.base_of(str(location.locate(pretrained)))
    overrides = [o for o in HydraConfig.get().overrides.task if re.split(r"[.=]", o.lstrip("+~"))[0] not in NO_EFFECT]
    if not any(o.startswith("model.pretrained=") for o in overrides):
        overrides.append(f"model.pretrained={quoted(pretrained)}")
    precision, _ = hardware.precision(cfg.trainer.precision, hardware.accelerator(cfg.trainer.accelerator))
    if precision != "32-true":
        overrides.append(f"trainer.precision={precision}")  # never `auto`: machines differ
    found = {"settings": settings, "overrides": overrides, "inputs": _inputs(settings)}
    found["command"] = shlex.join(["python", "sample.py", *overrides])
    new = SamplingRecord(**all_public(found), versions=hardware.versions(), precision=precision, only_image=cfg.only)
    _warn_of_changes(new)
    return new


def _warn_of_changes(now: SamplingRecord) -> None:
    """After from=IMAGE: warn of what differs from when the image was generated."""
    for name, digest in now.inputs.items():
        if _earlier_record.get("inputs", {}).get(name, digest) != digest:
            warn(f"{name} has changed since the image was generated: the new image will differ from it.")
    if not _earlier_record.get("changed", True) and _earlier_record["settings"] != now.settings:
        warn("The defaults of this version differ from those of the image: the new image will differ from it.")
    versions = [(name, was, now.versions.get(name)) for name, was in _earlier_record.get("versions", {}).items()]
    if others := [f"{name} {was} then, {current} now" for name, was, current in versions if was != current]:
        warn(f"Generated with other versions ({'; '.join(others)}): the new image may differ in the last bits.")
    _earlier_record.clear()


def built(node: DictConfig, model: Model) -> Any:
    """Instantiate a task or a guidance term; one that needs the model is a partial call in the configuration."""
    made = instantiate(node)
    return made(model) if isinstance(made, functools.partial) else made


def chosen_model(cfg: DictConfig) -> str:
    """Return model.pretrained, else the newest run's pipeline or the bundled model, which is then printed."""
    if cfg.model.pretrained:
        return cfg.model.pretrained
    newest = location.newest_pipeline()
    origin = "the bundled model" if newest == location.BUNDLED else "of the newest run"
    say(f"model: {newest}, {origin}; model.pretrained=FOLDER chooses another")
    return newest


def request(cfg: DictConfig, conditioner: Conditioner | None, pretrained: str) -> Request:
    """The conditions that the configuration asks for."""
    return Request(conditioner, {key: value for key, value in as_dict(cfg).items() if key in KINDS}, pretrained)


def terms(group: DictConfig) -> dict[str, DictConfig]:
    """The nodes of a group that have a _target_, by name: the terms of guidance, the parts of a condition."""
    return {str(k): node for k, node in group.items() if isinstance(node, DictConfig) and "_target_" in node}


def _inputs(settings: dict) -> dict[str, str]:
    """{name: digest} of all files that the settings name, weights in model folders and images in folders of masks.

    Names are public, see system/records.py; files that have the same public name are numbered.
    """
    read = [name for name, kind in KINDS.items() if kind.reads_files]
    groups = {group: settings.get(group) for group in ("model", "task", "guidance", "plugins", *read)}
    groups["task"] = {key: value for key, value in (groups["task"] or {}).items() if key not in TASK_GROUPS}
    negative = (groups["guidance"] or {}).get("negative") or {}
    images = _texts([given.get(name) for name in read for given in (groups, negative)])
    words = _texts([negative.get(name) for name in KINDS if name not in read])
    digests: dict[str, str] = {}
    for value in sorted(_texts(groups) - words - {""}):
        name = value.split(".py:")[0] + ".py" if ".py:" in value else value
        for within, file in _files_of(name, suffixes() if value in images else {".safetensors"}):
            known = f"{public(name)}/{within}" if within else public(name)
            numbered = (f"{known} ({k})" if k > 1 else known for k in itertools.count(1))
            with open(file, "rb") as f:
                digest = hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=12))
            digests[next(n for n in numbered if n not in digests)] = digest.hexdigest()
    return dict(sorted(digests.items()))


def _files_of(name: str, used: Collection[str]) -> list[tuple[str, Path]]:
    """[("", file)] for a file; for a folder, (path within it, file) of those with the suffixes."""
    with suppress(OSError, RuntimeError):  # a long text is no path, ~someone may have no home
        for place in (Path(name).expanduser(), REPOSITORY / name):
            if place.is_file():
                return [("", place)]
            if inside := [file for file in sorted(place.rglob("*")) if file.suffix.lower() in used]:
                return [(str(file.relative_to(place)), file) for file in inside]
    return []


def _texts(node: object) -> set[str]:
    return {value for _, value in walk(node) if isinstance(value, str)}
