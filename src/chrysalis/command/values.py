"""Every value of a configuration beside what its target's parameter is annotated with, before anything is built."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from chrysalis.command.errors import composed
from chrysalis.command.limits import limits, range_of
from chrysalis.command.value_types import described, fits
from chrysalis.system.errors import UserError

CONF = Path(__file__).resolve().parents[3] / "conf"
ROOTS = ("chrysalis", "torch.optim", "lightning", "diffusers")  # whose classes a configuration may name

# Keys that no target has, with what they can be
PLAIN = {
    "seed": int,
    "resume": bool | str | None,
    "compile": bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None,
    "channels_last": bool | Literal["auto"] | None,
    "on_nonfinite": Literal["stop", "skip"],
    "preflight": bool | Literal["only"],
    "profile": bool,
    "debug": bool,
    "noise_offset": float,
    "condition.dropout": float,
    "condition.lr_multiplier": float,
    "n": int,
    "steps": int,
    "image_size": int | tuple[int, int] | None,
    "batch_size": int,
    "guidance.recurrence": int,
    "guidance.scale": float,
    "guidance.negative": dict | None,
    "guidance.function": str,
    "trajectory": bool,
    "trajectory_columns": int,
    "out": str | int | float,
    "from": str | None,
    "only": str | None,
    "model.pretrained": str | None,
    "trainer.accelerator": str,
    "trainer.devices": int | Literal["auto"],
    "trainer.num_nodes": int,
    "trainer.precision": str | int,
}
ALSO = {  # beside the annotation
    "trainer.precision": int,
    "data.vector_columns": None,
    "animation.formats": None,
    "condition.text.levels": None,
}
# What Lightning's Trainer has and this project does in its own way
VALIDATION = "callbacks.validation.every_n_train_steps says how often the validation loss is measured"
WINDOWS = "it would cut accumulation windows short. trainer.max_steps says how long to train"
OURS = dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), VALIDATION)
OURS |= dict.fromkeys(("limit_train_batches", "overfit_batches", "fast_dev_run", "barebones"), WINDOWS)
OURS |= {
    "num_sanity_val_steps": "callbacks.validation measures the validation loss before the first step",
    "limit_val_batches": "callbacks.validation.n_images says how many validation images are measured",
    "enable_checkpointing": "callbacks.checkpoint.every_n_train_steps says how often a checkpoint is saved",
    "enable_progress_bar": "callbacks.progress.lines says how progress is shown",
    "enable_model_summary": "preflight says what is shown before training",
    "use_distributed_sampler": "the images are dealt out among trainer.devices in any case",
    "reload_dataloaders_every_n_epochs": "every epoch has an order of its own in any case",
    "plugins": "trainer.precision and trainer.strategy choose what Lightning's plugins do",
    "callbacks": "the callbacks are keys of their own, callbacks.NAME",
    "logger": "logger=tensorboard or logger=none chooses it",
    "default_root_dir": "the run's folder is runs/NAME, chosen by name",
}
OURS |= dict.fromkeys(("limit_test_batches", "limit_predict_batches"), "nothing is tested or predicted in training")
KEYS = "it must have keys, and a _target_ where `--cfg job` shows one."
CALLED_LATER = (
    "features",
    "objective",
    "optimizer",
    "lr_schedule",
    "trainer",
    "export",
    "scheduler",
)  # with more arguments
BUILT = ("data", "model", "adapter", "weighting", "logger", "profiling", "animation")  # at once


def require(cfg: DictConfig) -> None:
    """Refuse, by its key, the first value that its target cannot take, and a target that may not be named.

    Raises UserError, or OmegaConf's own for a value that is missing or refers to none.
    """
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if "name" in plain:
        require_name(plain["name"])
    _require_nodes(plain)
    for key, value, hint in _with_hints(plain):
        least, most = limits(key)
        if not fits(value, hint) and (key not in ALSO or not fits(value, ALSO[key])):
            raise UserError(f"{_shown(key, value)} must be {described(hint)}{_default(key, value, plain)}.")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool) and not least <= number <= most:
                raise UserError(f"{_shown(key, value)} must be {range_of(key)}{_default(key, value, plain)}.")
    if "lr_schedule" in plain:
        _require_end(plain)
        for key in plain["trainer"]:
            if key in OURS:
                raise UserError(f"trainer.{key} is not used here: {OURS[key]}.")


def _require_end(plain: dict) -> None:
    """Before the run begins: how many steps, and towards which end the learning rate falls."""
    trainer, kind = plain["trainer"], plain["lr_schedule"].get("kind")
    for key in ("max_steps", "max_epochs"):
        if trainer.get(key) == 0:
            raise UserError(f"trainer.{key}=0 would make no step: give at least 1, or -1 for no limit.")
    if kind in ("cosine", "linear") and trainer.get("max_steps") == trainer.get("max_epochs") == -1:
        raise UserError(f"lr_schedule={kind} needs an end: give trainer.max_steps or trainer.max_epochs.")


def require_name(name: object) -> None:
    """A run's name is one folder's."""
    text = "" if name is None or isinstance(name, bool | dict | list) else str(name)
    bad = re.search(r"[/\\\x00-\x1f\x7f]", text)
    if not text.strip(" .") or bad or len(text.encode(errors="replace")) > 200:
        raise UserError(
            f"{_shown('name', name)} cannot be a folder's name: use up to 200 letters, digits, '-', '_' or '.'; "
            "the run is then runs/NAME."
        )


def _require_nodes(plain: dict) -> None:
    """Refuse a value where there must be an object's keys."""
    sampling = "optimizer" not in plain
    for name in (*BUILT, *CALLED_LATER, "task"):
        if name not in plain or (sampling and (name == "trainer" or (name == "data" and plain[name] is None))):
            continue
        node = plain[name]
        if not isinstance(node, dict) or "_target_" not in node:
            raise UserError(f"{_shown(name, node)} cannot be used: {KEYS}")
        later = node.get("_partial_", False)
        if name != "task" and later is not (name in CALLED_LATER):
            raise UserError(f"{name}._partial_={_told(later)} cannot be used: leave it as it is.")
    for name in ("callbacks", "condition", "guidance", "trainer"):
        if name in plain and not isinstance(plain[name], dict):
            raise UserError(f"{_shown(name, plain[name])} cannot be used: {KEYS}")
    for name, node in (plain.get("callbacks") or {}).items():
        if node is None:
            raise UserError(
                f"callbacks.{name}=null cannot be used: each is needed; set its every_n_train_steps to make it rare."
            )
        if not (isinstance(node, dict) and "_target_" in node):
            raise UserError(f"{_shown(f'callbacks.{name}', node)} cannot be used: it must have a _target_.")


def _with_hints(plain: dict) -> Iterator[tuple[str, object, object]]:
    """(key, value, type) of every value that can be judged."""
    targets = dict(_targets(plain))
    for key, hint in PLAIN.items():
        node, _, name = key.rpartition(".")
        holder = plain
        for part in node.split(".") if node else ():
            holder = holder.get(part) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and name in holder and (key == "model.pretrained" or node not in targets):
            yield key, holder[name], hint
    for key, node in targets.items():
        yield from _of_target(key, node)


def _targets(node: object, key: str = "") -> Iterator[tuple[str, dict]]:
    """(key, node) of every node with a _target_, at any depth: hydra would build each."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from _targets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, f"{key}[{i}]")


def _of_target(key: str, node: dict) -> Iterator[tuple[str, object, object]]:
    target = _found(f"{key}._target_" if key else "_target_", node["_target_"])
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


def _found(key: str, path: object) -> object:
    """The class or function of this name, if it is one of ROOTS and not merely imported there."""
    roots = tuple(f"{root}." for root in ROOTS)
    own = f"only classes of {', '.join(ROOTS[:-1])} or {ROOTS[-1]} can."
    refused = UserError(f"{key}={_told(path)} cannot be used: {own}")
    if not isinstance(path, str) or not path.startswith(roots):
        raise refused
    try:
        found = get_object(path)
    except Exception as error:  # importing can raise anything
        raise UserError(f"{key}={_told(path)} is not there: mend the name, or leave it out.") from error
    if not callable(found) or not f"{getattr(found, '__module__', '')}.".startswith(roots):
        raise refused
    return found


def _parameters(target: object) -> tuple[dict[str, object], list[str] | None]:
    """(type of each parameter, their names); None for the names where it takes any others too.

    What goes on as **more belongs to the class that a function returns, or to the bases of a class.
    """
    hints, names, is_open = {}, [], True
    returned = _hints(target).get("return")
    places = [c for c in target.__mro__ if "__init__" in vars(c)] if inspect.isclass(target) else [target]
    if not inspect.isclass(target) and inspect.isclass(returned) and _takes_more(target):
        places += [c for c in returned.__mro__ if "__init__" in vars(c)]
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


def _takes_more(call: object) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(call).parameters.values())


def _hints(call: object) -> dict[str, object]:
    try:
        return get_type_hints(call)
    except Exception:  # names that only a type checker imports, or no function at all
        return {}


def _default(key: str, value: object, plain: dict) -> str:
    """'; the default is 0.0005', of the configuration with the same groups."""
    try:
        default = OmegaConf.select(composed("train" if "optimizer" in plain else "sample", CONF), key)
    except Exception:  # such as ${hydra:...}, which is there in a job only
        return ""
    default = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
    said = default is not None and not isinstance(default, dict) and _told(default) != _told(value)
    return f"; the default is {_told(default)}" if said else ""


def _shown(key: str, value: object) -> str:
    return f"{key}={_told(value)}"


def _told(value: object) -> str:
    """As it would be typed, on one line and not too long."""
    if isinstance(value, list):
        text = f"[{','.join(_told(v) for v in value[:20])}]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = repr(value)[1:-1] if isinstance(value, str) and not value.isprintable() else f"{value}"
    return text if len(text) <= 100 else f"{text[:97]}..."
