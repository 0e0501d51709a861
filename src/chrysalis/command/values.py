"""Check every value of a configuration against the annotations of its target, before anything is built."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from chrysalis.command import plugins, targets
from chrysalis.command.config_tree import as_dict, walk
from chrysalis.command.errors import composed
from chrysalis.command.value_types import as_typed_text, described, fits
from chrysalis.system import ranges
from chrysalis.system.errors import UserError

WITHOUT_TARGET = {  # types of the keys that are not arguments of a target
    "plugins": str | list[str],
    "seed": ranges.Seed,
    "resume": bool | str | None,
    "compile": bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None,
    "channels_last": bool | Literal["auto"],
    "on_nonfinite": Literal["stop", "skip"],
    "preflight": bool | Literal["only"],
    "profile": bool,
    "debug": bool,
    "noise_offset": ranges.NoiseOffset,
    "condition.dropout": ranges.Fraction,
    "condition.lr_multiplier": ranges.LearningRateMultiplier,
    "n": ranges.Samples,
    "steps": ranges.Steps,
    "image_size": ranges.Pixels | tuple[ranges.Pixels, ranges.Pixels] | None,
    "batch_size": ranges.Positive,
    "guidance.recurrence": ranges.From1To1000,
    "guidance.scale": float,
    "guidance.negative": dict | None,
    "guidance.function": str,
    "trajectory": bool,
    "trajectory_columns": ranges.Columns,
    "out": str | int | float,
    "from": str | None,
    "only": str | None,
}
REPLACED = {  # types to check instead of the target's annotation: Lightning's are wider
    "model.pretrained": str | None,  # sample.py then chooses
    "trainer.max_steps": ranges.Limit,
    "trainer.max_epochs": ranges.Limit | None,
    "trainer.accumulate_grad_batches": ranges.Positive,
    "trainer.log_every_n_steps": ranges.Positive,
    "trainer.num_nodes": ranges.From1To10000,
}
# Arguments of Lightning's Trainer that this project replaces, with what to use instead
VALIDATION = "callbacks.validation.every_n_train_steps sets how often the validation loss is measured"
MAX_STEPS = "trainer.max_steps sets how long to train"  # the others would cut accumulation windows short
NOT_USED = dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), VALIDATION)
NOT_USED |= dict.fromkeys(("limit_train_batches", "overfit_batches", "fast_dev_run"), MAX_STEPS)
NOT_USED |= {
    "num_sanity_val_steps": "callbacks.validation measures the base model after the first step",
    "limit_val_batches": "callbacks.validation.n_images sets the number of validation images",
    "enable_checkpointing": "callbacks.checkpoint.every_n_train_steps sets how often a checkpoint is saved",
    "enable_progress_bar": "callbacks.progress.lines sets how progress is shown",
    "enable_model_summary": "preflight sets what is printed before training",
    "use_distributed_sampler": "the images are always distributed among trainer.devices",
    "reload_dataloaders_every_n_epochs": "every epoch always has its own order",
    "plugins": "trainer.precision and trainer.strategy replace Lightning's; plugins=[...] imports your own code",
    "callbacks": "each callback has its own key, callbacks.NAME",
    "default_root_dir": "the run's folder is runs/NAME, set by name",
}
NOT_USED |= dict.fromkeys(("logger", "barebones"), "logger=tensorboard or logger=none sets what is logged")
NOT_USED |= dict.fromkeys(("limit_test_batches", "limit_predict_batches"), "training runs no test or prediction loop")
NEEDS_KEYS = "give it keys, and a _target_ where `--cfg job` shows one."
GROUPS = ("callbacks", "condition", "guidance")  # each holds nodes by name
CALLED_LATER = ("features", "objective", "optimizer", "lr_schedule", "trainer", "export", "scheduler")  # _partial_
BUILT_AT_ONCE = ("data", "model", "adapter", "weighting", "logger", "profiling", "animation")


def require(cfg: DictConfig) -> None:
    """Import the plugins of a configuration, and check every value of it.

    Raises:
        UserError: a value does not fit its target, named by its key, or a target may not be named; for a value that is
            missing or cannot be resolved, OmegaConf's own error.
    """
    plain = as_dict(cfg)
    if "name" in plain:
        require_name(plain["name"])
    _require_nodes(plain)
    for key, value, hint in _with_types(plain):
        if not fits(value, hint):
            raise UserError(f"{_assignment(key, value)} must be {described(hint)}{_default(key, value, plain)}.")
    trainer, schedule = plain.get("trainer", {}), plain.get("lr_schedule", {}).get("kind")
    for key, number in trainer.items():
        if key in ("max_steps", "max_epochs") and number == 0:
            raise UserError(f"trainer.{key}=0 would train for no steps: give at least 1, or -1 for no limit.")
        if key in NOT_USED:
            raise UserError(f"trainer.{key} is not used here: leave it out; {NOT_USED[key]}.")
    if schedule in ("cosine", "linear") and trainer.get("max_steps") == trainer.get("max_epochs") == -1:
        raise UserError(f"lr_schedule={schedule} needs an end: give trainer.max_steps or trainer.max_epochs.")


def require_name(name: object) -> None:
    """Raise UserError unless a run's name can be the name of one folder."""
    text = "" if name is None or isinstance(name, bool | dict | list) else str(name)
    bad = re.search(r"[/\\\x00-\x1f\x7f]", text)
    if not text.strip(" .") or bad or len(text.encode(errors="replace")) > 200:
        raise UserError(
            f"{_assignment('name', name)} cannot be a folder's name: use up to 200 letters, digits, '-', '_' or '.'; "
            "the run is then runs/NAME."
        )


def _require_nodes(plain: dict[str, Any]) -> None:
    """Raise UserError for a value in the place of an object's keys."""
    for name in GROUPS:
        if not isinstance(plain.get(name, {}), dict):
            raise UserError(f"{_assignment(name, plain[name])} cannot be used: {NEEDS_KEYS}")
    nodes = {name: plain[name] for name in (*BUILT_AT_ONCE, *CALLED_LATER, "task") if name in plain}
    if "task" in plain and plain.get("data") is None:  # sample.py needs data for task=evaluate alone
        nodes.pop("data", None)
    nodes |= {f"callbacks.{name}": node for name, node in plain.get("callbacks", {}).items()}
    for name, node in nodes.items():
        if node is None and name.startswith("callbacks."):
            raise UserError(f"{name}=null cannot be used: leave it out, or set a large every_n_train_steps instead.")
        if not isinstance(node, dict) or "_target_" not in node:
            raise UserError(f"{_assignment(name, node)} cannot be used: {NEEDS_KEYS}")
        later = node.get("_partial_", False)
        if name != "task" and later is not (name in CALLED_LATER):
            raise UserError(f"{name}._partial_={as_typed_text(later)} cannot be used: leave it out.")


def _with_types(plain: dict[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Yield (key, value, type) of every value whose type is known; import the plugins once their key is checked."""
    values = dict(walk(plain))
    nodes = {key: value for key, value in values.items() if isinstance(value, dict) and "_target_" in value}
    for key, hint in WITHOUT_TARGET.items():
        if key in values and key.rpartition(".")[0] not in nodes:
            yield key, values[key], hint
    names = plugins.load(plain.get("plugins", ()))
    for key, node in nodes.items():
        for name, value, hint in targets.arguments(key, node, names):
            yield name, value, REPLACED.get(name, hint)


def _default(key: str, value: object, plain: dict[str, Any]) -> str:
    """'; the default is 0.0005', of the configuration with the same groups."""
    try:
        default = OmegaConf.select(composed("train" if "optimizer" in plain else "sample"), key)
    except Exception:  # such as ${hydra:...}, which exists in a job only
        return ""
    default = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
    differs = default is not None and not isinstance(default, dict) and as_typed_text(default) != as_typed_text(value)
    return f"; the default is {as_typed_text(default)}" if differs else ""


def _assignment(key: str, value: object) -> str:
    return f"{key}={as_typed_text(value)}"
