"""A run is one folder: starting one, recording its configuration, continuing it."""

import difflib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import chrysalis
from chrysalis.system import checkpoints
from chrysalis.system.errors import UserError
from chrysalis.system.files import REPOSITORY, read_mapping, shown, write_text
from chrysalis.system.terminal import is_main_process, say

# What may change when a run continues; anything else would change what was learned so far.
CHANGEABLE = re.compile(
    r"trainer\.(max_steps|max_epochs|max_time|devices|num_nodes|strategy|accelerator|precision|log_every_n_steps"
    r"|deterministic|benchmark|profiler|detect_anomaly)|callbacks\.\w+\.every_n_train_steps|callbacks\.(progress\.lines|checkpoint\.keep)"
    r"|callbacks\.(evaluate|early_stopping)\..+|callbacks\.best\.monitor|callbacks\.nonfinite\.at_most|features\..+"
    r"|data\.(path|num_workers|on_device)|outcome\.(half|report)|on_nonfinite|preflight|compile|channels_last|profile"
    r"|profiling\.\w+|debug"
)

BEGUN = "begun_with_batch_size"  # in config.yaml, where another number of processes has changed data.batch_size
SETTLED = ("data.batch_size", "trainer.accumulate_grad_batches")

_process_began: list[float] = [chrysalis.BEGAN]
_changes: list[str] = []


def began() -> float:
    """time.time() when this job began: the first job of a process began with the process."""
    return _process_began.pop() if _process_began else time.time()


def set_changes_aside(arguments: list[str]) -> list[str]:
    """With resume=... among them, only that: the other overrides are for the recorded configuration, see begin."""
    _changes.clear()
    given = [a for a in arguments if a.startswith("resume=") and a[7:].strip() not in ("", "''", '""', "null", "false")]
    arguments = [a for a in arguments if a in given or not a.startswith("resume=")]
    if any(a in ("-m", "--multirun") for a in arguments):
        return arguments
    if not given and int(os.environ.get("SLURM_RESTART_COUNT") or 0):  # the same job, queued again
        return [*arguments, "resume=true"]
    if [a.lower() for a in given] in ([], ["resume=true"]):
        return arguments
    kept = [a for a in arguments if a.startswith(("-", "resume=", "name=", "hydra"))]
    _changes.extend(a for a in arguments if a not in kept)
    return kept


def begin(cfg: DictConfig) -> tuple[DictConfig, Path, Path | None]:
    """(configuration, run folder, checkpoint to continue from or None).

    With resume=runs/NAME the configuration is the one recorded there, with this command's overrides on top. With
    resume=true it is the composed one, which must be what is recorded but for what may change; where there is nothing
    to continue, the run begins.
    """
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed} must be a whole number from 0 to {2**32 - 1}.")
    if not isinstance(cfg.resume, str | bool | None):
        raise UserError(f"resume={cfg.resume} is not a run: give runs/NAME, or true with a name.")
    if cfg.resume is True and not checkpoints.any_in(Path(HydraConfig.get().runtime.output_dir)):
        cfg.resume = None
    if not cfg.resume:
        folder = Path(HydraConfig.get().runtime.output_dir)
        used = any((folder / name).exists() for name in ("results.json", "checkpoints"))
        if used and is_main_process():
            where = shown(folder)
            raise UserError(f"{where} already holds a run: choose another name, or continue it with resume={where}.")
        return cfg, folder, None
    folder = Path(HydraConfig.get().runtime.output_dir)
    recorded = folder / "config.yaml"
    if not recorded.is_file():
        near = difflib.get_close_matches(folder.name, [p.parent.name for p in folder.parent.glob("*/config.yaml")], 1)
        hint = f"Did you mean {shown(folder.with_name(near[0]))}?" if near else "Runs lie in runs/NAME."
        # Hydra has made the folder, where there was none
        why = "is not a run: it has no config.yaml" if any(folder.iterdir()) else "is not there"
        raise UserError(f"resume={cfg.resume} {why}. {hint}")
    checkpoint = checkpoints.newest(folder)
    was = OmegaConf.create({**cfg, **_read(recorded)})  # of a run that was recorded before there were some keys
    was.callbacks = {**cfg.callbacks, **was.callbacks}
    _link(was, cfg)
    processes = _processes(was)
    if cfg.resume is True:
        _change_to(was, cfg, folder)
    else:
        _change(was, folder)
    _keep_joint_batch(was, processes)
    _set_everywhere(was, "run_dir", str(folder))
    return was, folder, checkpoint


def typed() -> set[str]:
    """The keys on the command line, those that follow resume=RUN among them."""
    given = [*HydraConfig.get().overrides.task, *_changes]
    return {override.split("=")[0].lstrip("+~") for override in given}


def chosen(cfg: DictConfig, keys: Iterable[str]) -> set[str]:
    """Which of some callbacks' keys the user chose: typed, or other than in conf/callbacks."""
    defaults = {}
    for key in keys:
        _, callback, name = key.split(".")
        defaults[key] = OmegaConf.load(REPOSITORY / "conf" / "callbacks" / f"{callback}.yaml")[callback][name]
    return {key for key, value in defaults.items() if OmegaConf.select(cfg, key) != value} | (typed() & {*defaults})


def is_finished(cfg: DictConfig, folder: Path) -> bool:
    """Whether a run that is to continue has made its steps and left all that it should, as this configuration says."""
    files = ["results.json", "history.json", "before_after.png", "pipeline/model_index.json"]
    files += ["report.html", "loss.png"] if cfg.export.get("report", True) else []
    if not all((folder / name).is_file() for name in files) or cfg.preflight == "only":
        return False
    ends = ((cfg.trainer.max_steps, "steps"), (cfg.trainer.max_epochs, "epochs"))
    return any(0 < (wanted or 0) <= _made(folder, what) for wanted, what in ends) and _exported(cfg) == _exported(
        _read(folder / "config.yaml")
    )


def nothing_to_do(cfg: DictConfig, folder: Path) -> str:
    key = "max_steps" if cfg.trainer.max_steps > 0 else "max_epochs"
    return (
        f"{shown(folder)} has made its {_made(folder, 'steps')} steps and is exported: there is nothing to do. "
        f"trainer.{key}=MORE continues it."
    )


def _made(folder: Path, what: str) -> int:
    """How many steps, or passes over the training images, a run that is exported has made."""
    try:
        number = read_mapping(folder / "results.json", "is damaged").get(what)
    except UserError:  # then it is written again
        return 0
    return number if isinstance(number, int) else 0


def _exported(cfg: DictConfig) -> dict:
    """What decides about the export and the figures beside it."""
    leaves = dict(_leaves(OmegaConf.to_container(cfg, resolve=True)))
    groups = ("callbacks.best.", "callbacks.evaluate.", "features.", "export.")
    return {key: leaf for key, leaf in leaves.items() if key.startswith(groups) and not key.endswith("run_dir")}


def _read(recorded: Path) -> DictConfig:
    try:
        was = OmegaConf.load(recorded)
        if all(OmegaConf.is_dict(was[group]) for group in ("trainer", "data", "callbacks")):
            return was
    except Exception:  # a damaged file can fail in any way
        pass
    raise UserError(f"{shown(recorded)} is damaged or not of this program: the run cannot be continued.")


def _change(cfg: DictConfig, folder: Path) -> None:
    for override in OverridesParser.create().parse_overrides(_changes):
        key = override.key_or_group
        if override.is_delete() or override.is_sweep_override():
            raise UserError(f"{override.input_line} cannot be given with resume: only key=value can.")
        if OmegaConf.select(cfg, key, default=cfg) is cfg and not override.is_add():
            raise UserError(f"{key} is not a key of the run in {shown(folder)}: see its config.yaml.")
        if not CHANGEABLE.fullmatch(key):
            raise UserError(f"{key} cannot change when a run continues: start a new run, or leave it out.")
        OmegaConf.update(cfg, key, override.value())


def _change_to(was: DictConfig, cfg: DictConfig, folder: Path) -> None:
    """The values of a whole configuration, where they may change; the others must be the recorded ones.

    What was settled when the run began (data.batch_size=auto) stays as it is.
    """
    settled = ["name", "resume", "run_dir", *(SETTLED if cfg.data.get("batch_size") == "auto" else ())]
    if cfg.data.get("batch_size") == was.get(BEGUN):
        settled.append("data.batch_size")
    new, old = (dict(_leaves(OmegaConf.to_container(c, resolve=True))) for c in (cfg, was))
    typed = tuple(f"{o.split('=')[0].lstrip('+~')}." for o in HydraConfig.get().overrides.task)
    for key in {**new, **old}:
        if key in settled or key.endswith(".run_dir"):
            continue
        if key in new and key in old and new[key] == old[key]:
            continue
        if key not in new or key not in old:
            if f"{key}.".startswith(typed) and CHANGEABLE.fullmatch(key):
                OmegaConf.update(was, key, new.get(key), force_add=True)
            elif f"{key}.".startswith(typed):  # else it is one that another version has
                had = "has it" if key in old else "does not have it"
                raise UserError(
                    f"{key.removesuffix('._target_')} cannot change when a run continues, and {shown(folder)} {had}: "
                    "leave it as it was, or choose another name."
                )
            continue
        if not CHANGEABLE.fullmatch(key):
            raise UserError(
                f"{key}={new[key]} was {old[key]} when {shown(folder)} began, and cannot change when a run continues: "
                "leave it as it was, or choose another name."
            )
        OmegaConf.update(was, key, new[key])


def _leaves(node, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _processes(cfg: DictConfig) -> int | None:
    """How many train together; None where Lightning finds out."""
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    return devices * nodes if isinstance(devices, int) and devices > 0 else None


def _keep_joint_batch(cfg: DictConfig, before: int | None) -> None:
    """With another number of processes the run has the same joint micro-batches, so that it continues exactly."""
    now = _processes(cfg)
    if now == before or None in (now, before):
        return
    joint = cfg.data.batch_size * before
    if joint % now:
        raise UserError(
            f"trainer.devices={now} cannot share the {joint} images of a micro-batch equally: take a divisor of it."
        )
    if cfg.get(BEGUN) is None:
        cfg[BEGUN] = cfg.data.batch_size
    cfg.data.batch_size = joint // now
    say(f"data.batch_size={cfg.data.batch_size}, so that {now} processes see the same images a step as {before} did")


def _link(was: DictConfig, cfg: DictConfig) -> None:
    """Let what was recorded as a value follow the key that it was taken from, so that a change reaches it."""
    for key, value in _leaves(OmegaConf.to_container(cfg, resolve=False)):
        link = isinstance(value, str) and re.fullmatch(r"\$\{([\w.]+)\}", value)
        if link and all(OmegaConf.select(was, k, default=was) is not was for k in (key, link[1])):
            OmegaConf.update(was, key, value)


def _set_everywhere(cfg: DictConfig, name: str, value: str) -> None:
    """A run folder may have been moved or copied: what is written belongs into this one."""
    for key in cfg:
        if key == name:
            cfg[key] = value
        elif OmegaConf.is_dict(cfg[key]):
            _set_everywhere(cfg[key], name, value)


def record(cfg: DictConfig, folder: Path, checkpoint: Path | None, settled: Mapping[str, object]) -> None:
    """Write config.yaml: resolved, enough to run it again. settled: {key: value} in place of the configured values.

    In a run that continues, what a killed process left is removed.
    """
    if is_main_process():
        if checkpoint is not None:
            checkpoints.tidy(folder, checkpoint)
        plain = OmegaConf.to_container(cfg, resolve=True)
        plain["resume"] = None
        whole = OmegaConf.create(plain)
        for key, value in settled.items():
            OmegaConf.update(whole, key, value, merge=False, force_add=True)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(whole))


def flat(cfg: DictConfig) -> dict[str, str | int | float | bool]:
    """{'data.batch_size': 4, ...}: what TensorBoard's hparams take."""
    pairs: dict = {}

    def walk(node, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            elif not key.startswith("_") and value is not None:
                pairs[prefix + key] = value if isinstance(value, int | float | bool) else str(value)

    chosen = {k: v for k, v in OmegaConf.to_container(cfg, resolve=True).items() if k not in ("callbacks", "logger")}
    walk(chosen, "")
    return pairs
