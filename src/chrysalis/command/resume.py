"""Resuming a run: its recorded configuration, with the changes that are allowed."""

import difflib
import os
import re
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from chrysalis.command.arguments import is_sweep
from chrysalis.command.config_tree import as_dict, leaves
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown
from chrysalis.system.terminal import say

# Keys that may change; any other would change what the run has trained on so far
CHANGEABLE = re.compile(
    r"trainer\.(max_steps|max_epochs|max_time|devices|num_nodes|strategy|accelerator|precision|log_every_n_steps"
    r"|deterministic|benchmark|profiler|detect_anomaly)|callbacks\.\w+\.every_n_train_steps|callbacks\.(progress\.lines|checkpoint\.keep)"
    r"|callbacks\.(evaluate|early_stopping)\..+|callbacks\.best\.monitor|callbacks\.nonfinite\.at_most|features\..+"
    r"|data\.(path|num_workers|on_device)|export\.(half|report)|on_nonfinite|preflight|compile|channels_last|profile"
    r"|profiling\.\w+|plugins|debug"
)

BEGUN = "begun_with_batch_size"  # in config.yaml, where another number of processes has changed data.batch_size
MEASURING = "measuring"  # in config.yaml, where the preflight has made measurements rarer
SETTLED = ("data.batch_size", "trainer.accumulate_grad_batches")  # by data.batch_size=auto

changes: list[str] = []  # the overrides typed beside resume=RUN


def set_changes_aside(arguments: list[str]) -> list[str]:
    """Keep the overrides beside resume=RUN from Hydra: they change the recorded configuration, see `recorded`.

    Under SLURM a job that was queued again resumes its run.
    """
    changes.clear()
    none = ("", "''", '""', "null", "false")
    given = [a for a in arguments if a.startswith("resume=") and a[7:].strip() not in none]
    arguments = [a for a in arguments if a in given or not a.startswith("resume=")]
    if is_sweep(arguments):
        return arguments
    if not given and int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return [*arguments, "resume=true"]
    if {a.lower() for a in given} <= {"resume=true"}:
        return arguments
    kept = [a for a in arguments if a.startswith(("-", "resume=", "name=", "hydra"))]
    changes.extend(a for a in arguments if a not in kept)
    return kept


def require_recorded(name: str | bool, folder: Path) -> None:
    """Raise UserError unless the folder that `resume` names has a config.yaml."""
    if not (folder / "config.yaml").is_file():
        near = difflib.get_close_matches(folder.name, [p.parent.name for p in folder.parent.glob("*/config.yaml")], 1)
        hint = f"Did you mean {shown(folder.with_name(near[0]))}?" if near else "Runs are in runs/NAME."
        # an empty folder is one that Hydra has just made
        why = "is not a run: it has no config.yaml" if any(folder.iterdir()) else "does not exist"
        raise UserError(f"resume={name} {why}. {hint}")


def recorded(cfg: DictConfig, folder: Path) -> DictConfig:
    """The configuration with which the run in `folder` continues.

    With resume=RUN it is the recorded one and this command's overrides; with resume=true the composed one, which must
    equal the recorded one apart from what may change.
    """
    run = read(folder / "config.yaml")
    _restore_links(run, cfg)
    before = _processes(run)
    if cfg.resume is True:
        _change_to(run, cfg, folder)
    else:
        _change(run, folder)
    _keep_joint_batch(run, before)
    for key in leaves(as_dict(run, resolve=False)):  # the run folder may have been moved or copied
        if key.split(".")[-1] == "run_dir":
            OmegaConf.update(run, key, str(folder))
    return run


def read(file: Path) -> DictConfig:
    """A run's config.yaml; raises UserError if it is damaged or not a run's."""
    with suppress(Exception):  # a damaged file can fail in any way
        cfg = OmegaConf.load(file)
        if isinstance(cfg, DictConfig) and all(OmegaConf.is_dict(cfg[k]) for k in ("trainer", "data", "callbacks")):
            return cfg
    raise UserError(f"{shown(file)} is damaged or not the configuration of a run: the run cannot be resumed.")


def _change(run: DictConfig, folder: Path) -> None:
    """Apply the overrides typed beside resume=RUN."""
    for override in OverridesParser.create().parse_overrides(changes):
        key = override.key_or_group
        if override.is_delete() or override.is_sweep_override():
            raise UserError(f"{override.input_line} does not work with resume: only key=value does.")
        if OmegaConf.select(run, key, default=run) is run and not override.is_add():
            raise UserError(f"{key} is not a key of the run in {shown(folder)}: see its config.yaml.")
        if not CHANGEABLE.fullmatch(key):
            raise UserError(f"{key} cannot change when a run is resumed: start a new run, or leave it out.")
        OmegaConf.update(run, key, override.value())


def _change_to(run: DictConfig, cfg: DictConfig, folder: Path) -> None:
    """Apply what differs in a whole configuration; data.batch_size=auto stays as it was settled when the run began."""
    settled = ["name", "resume", BEGUN, *(SETTLED if cfg.data.get("batch_size") == "auto" else ())]
    if cfg.data.get("batch_size") == run.get(BEGUN):
        settled.append("data.batch_size")
    new, old = (leaves(as_dict(c)) for c in (cfg, run))
    for key in {**new, **old}:
        if key in settled or key.split(".")[-1] == "run_dir" or key.startswith(f"{MEASURING}."):
            continue
        if key in new and key in old and new[key] == old[key]:
            continue
        if not CHANGEABLE.fullmatch(key):
            keep = "leave it as it was, or choose another name."
            if key in new and key in old:
                was = f"was {old[key]} when {shown(folder)} began"
                raise UserError(f"{key}={new[key]} {was}, and cannot change when a run is resumed: {keep}")
            had, name = "has it" if key in old else "does not have it", key.removesuffix("._target_")
            raise UserError(f"{name} cannot change when a run is resumed, and {shown(folder)} {had}: {keep}")
        OmegaConf.update(run, key, new.get(key), force_add=True)


def _processes(cfg: DictConfig) -> int | None:
    """The number of training processes; None where Lightning determines it."""
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    return devices * nodes if isinstance(devices, int) and devices > 0 else None


def _keep_joint_batch(run: DictConfig, before: int | None) -> None:
    """Divide the joint micro-batch among another number of processes, so that training continues exactly."""
    now = _processes(run)
    if now is None or before is None or now == before:
        return
    joint = run.data.batch_size * before
    if joint % now:
        raise UserError(
            f"trainer.devices={now} cannot share the {joint} images of a micro-batch equally: use a divisor of {joint}."
        )
    if run.get(BEGUN) is None:
        run[BEGUN] = run.data.batch_size
    run.data.batch_size = joint // now
    say(f"data.batch_size={run.data.batch_size}: {now} processes train on the same images per step as {before} did")


def _restore_links(run: DictConfig, cfg: DictConfig) -> None:
    """Put back the ${key} that config.yaml has as values, so that a changed key reaches all that refer to it."""
    for key, value in leaves(as_dict(cfg, resolve=False)).items():
        link = isinstance(value, str) and re.fullmatch(r"\$\{([\w.]+)\}", value)
        if link and all(OmegaConf.select(run, k, default=run) is not run for k in (key, link[1])):
            OmegaConf.update(run, key, value)
