"""Start a run in its folder, resume it with the changes that are allowed, and record its configuration."""

import difflib
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import chrysalis
from chrysalis.command import arguments
from chrysalis.command.config_tree import as_dict
from chrysalis.command.errors import CONF
from chrysalis.system import checkpoints
from chrysalis.system.errors import UserError
from chrysalis.system.files import read_mapping, shown, write_text
from chrysalis.system.records import leaves
from chrysalis.system.terminal import is_main_process, say

# Keys that may change when a run is resumed; any other would contradict its training so far
CHANGEABLE = re.compile(
    r"trainer\.(max_steps|max_epochs|max_time|devices|num_nodes|strategy|accelerator|precision|log_every_n_steps"
    r"|deterministic|benchmark|profiler|detect_anomaly)|callbacks\.\w+\.every_n_train_steps|callbacks\.(progress\.lines|checkpoint\.keep)"
    r"|callbacks\.(evaluate|early_stopping)\..+|callbacks\.best\.monitor|callbacks\.nonfinite\.max_skipped_steps|features\..+"
    r"|data\.(path|num_workers|on_device)|export\.(half|report)|on_nonfinite|preflight|compile|channels_last|profile"
    r"|profiling\.\w+|plugins|debug"
)

ORIGINAL = "original_batch_size"  # in config.yaml, where another number of processes has changed data.batch_size
MEASURING = "measuring"  # in config.yaml, where the preflight has made measurements coarser
SETTLED = ("data.batch_size", "trainer.accumulate_grad_batches")  # by data.batch_size=auto

_process_start: list[float] = [chrysalis.PROCESS_START]


def start_time() -> float:
    """time.time() when this job began: the first job of a process began with the process."""
    return _process_start.pop() if _process_start else time.time()


def begin(cfg: DictConfig) -> tuple[DictConfig, Path, Path | None]:
    """Start a run, or resume it as `resume` says; resume=true starts it where there is nothing to resume.

    Returns:
        (configuration, run folder, checkpoint to resume from or None).
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.resume is True and not checkpoints.any_in(folder):
        cfg.resume = None
    if cfg.resume and not (folder / "config.yaml").is_file():
        near = difflib.get_close_matches(folder.name, [p.parent.name for p in folder.parent.glob("*/config.yaml")], 1)
        hint = f"Did you mean {shown(folder.with_name(near[0]))}?" if near else "Runs are in runs/NAME."
        # an empty folder is one that Hydra has just made
        why = "is not a run: it has no config.yaml" if any(folder.iterdir()) else "does not exist"
        raise UserError(f"resume={cfg.resume} {why}. {hint}")
    if cfg.resume:
        checkpoint = checkpoints.newest(folder)
        return resumed_config(cfg, folder), folder, checkpoint
    used = any((folder / name).exists() for name in ("results.json", "checkpoints"))
    if used and is_main_process():
        where = shown(folder)
        raise UserError(f"{where} already holds a run: choose another name, or continue it with resume={where}.")
    return cfg, folder, None


def typed() -> set[str]:
    """The keys on the command line, those beside resume=RUN included."""
    given = [*HydraConfig.get().overrides.task, *arguments.changes]
    return {override.split("=")[0].lstrip("+~") for override in given}


def chosen(cfg: DictConfig, keys: Iterable[str]) -> set[str]:
    """The keys, all of callbacks, that the user chose: typed, or with another value than in conf/callbacks."""
    defaults = {key: OmegaConf.load(CONF / "callbacks" / f"{key.split('.')[1]}.yaml") for key in keys}
    return typed() & {*defaults} | {
        key
        for key, callback in defaults.items()
        if OmegaConf.select(cfg, key) != OmegaConf.select(callback, key.removeprefix("callbacks."))
    }


def nothing_to_do(cfg: DictConfig, folder: Path) -> str | None:
    """Return a message if a run has trained for the configured steps and its export is up to date, else None."""
    files = ["history.json", "before_after.png", "pipeline/model_index.json"]
    files += ["report.html", "loss.png"] if cfg.export.report else []
    if cfg.preflight == "only" or not all((folder / name).is_file() for name in files):
        return None
    try:
        results = read_mapping(folder / "results.json", "is damaged")
        trained_for = {f"max_{unit}": int(results[unit]) for unit in ("steps", "epochs")}
    except (UserError, KeyError, TypeError, ValueError):  # missing or damaged: it is then written again
        return None
    ends = [key for key, done in trained_for.items() if 0 < (cfg.trainer[key] or 0) <= done]
    if not ends or _export_settings(cfg) != _export_settings(_read(folder / "config.yaml")):
        return None
    return (
        f"{shown(folder)} has trained for {results['steps']} steps and is exported: there is nothing to do. "
        f"trainer.{ends[0]}=MORE continues it."
    )


def _export_settings(cfg: DictConfig) -> dict[str, object]:
    """The settings that determine the export and the figures beside it."""
    groups = ("callbacks.best.", "callbacks.evaluate.", "features.", "export.")
    return {k: v for k, v in leaves(as_dict(cfg)).items() if k.startswith(groups) and not k.endswith("run_dir")}


def record(cfg: DictConfig, folder: Path, checkpoint: Path | None, settled: Mapping[str, object]) -> None:
    """Write config.yaml: resolved, enough to run it again. settled: {key: value} in place of the configured values.

    In a run that continues, what a killed process left is removed.
    """
    if is_main_process():
        if checkpoint is not None:
            checkpoints.tidy(folder, checkpoint)
        whole = OmegaConf.create(as_dict(cfg) | {"resume": None})
        for key, value in settled.items():
            OmegaConf.update(whole, key, value, merge=False, force_add=True)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(whole))


def flat(cfg: DictConfig) -> dict[str, str | int | float | bool]:
    """{'data.batch_size': 4, ...} without callbacks and logger, as TensorBoard's hparams take them."""
    plain = {key: value for key, value in as_dict(cfg).items() if key not in ("callbacks", "logger")}
    pairs = {key: value for key, value in leaves(plain).items() if value is not None and "._" not in f".{key}"}
    return {key: value if isinstance(value, int | float) else str(value) for key, value in pairs.items()}


def resumed_config(cfg: DictConfig, folder: Path) -> DictConfig:
    """The configuration with which the run in `folder` continues.

    With resume=RUN it is the recorded one and this command's overrides; with resume=true the composed one, which must
    equal the recorded one apart from what may change.
    """
    run = _read(folder / "config.yaml")
    # 1. Interpolations, which config.yaml has as values, so that a changed key reaches all that refer to it
    for key, value in leaves(as_dict(cfg, resolve=False)).items():
        link = isinstance(value, str) and re.fullmatch(r"\$\{([\w.]+)\}", value)
        if link and all(OmegaConf.select(run, k, default=run) is not run for k in (key, link[1])):
            OmegaConf.update(run, key, value)
    # 2. What this command changes
    before = _processes(run)
    if cfg.resume is True:
        _change_to(run, cfg, folder)
    else:
        _change(run, folder)
    _keep_global_batch(run, before)
    # 3. The run folder, which may have been moved or copied
    for key in leaves(as_dict(run, resolve=False)):
        if key.split(".")[-1] == "run_dir":
            OmegaConf.update(run, key, str(folder))
    return run


def _read(file: Path) -> DictConfig:
    """A run's config.yaml; raises UserError if it is damaged or not a run's."""
    with suppress(Exception):  # a damaged file can fail in any way
        cfg = OmegaConf.load(file)
        if isinstance(cfg, DictConfig) and all(OmegaConf.is_dict(cfg[k]) for k in ("trainer", "data", "callbacks")):
            return cfg
    raise UserError(f"{shown(file)} is damaged or not the configuration of a run: start again under another name.")


def _change(run: DictConfig, folder: Path) -> None:
    """Apply the overrides typed beside resume=RUN."""
    for override in arguments.parsed(arguments.changes):
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
    settled = ["name", "resume", ORIGINAL, *(SETTLED if cfg.data.get("batch_size") == "auto" else ())]
    if cfg.data.get("batch_size") == run.get(ORIGINAL):
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


def _keep_global_batch(run: DictConfig, before: int | None) -> None:
    """Divide the global micro-batch among another number of processes, so that training continues exactly."""
    now = _processes(run)
    if now is None or before is None or now == before:
        return
    images = run.data.batch_size * before
    if images % now:
        raise UserError(
            f"trainer.devices={run.trainer.devices} and trainer.num_nodes={run.trainer.num_nodes} make {now} processes,"
            f" which cannot share a micro-batch's {images} images equally: make their number a divisor of {images}."
        )
    if run.get(ORIGINAL) is None:
        run[ORIGINAL] = run.data.batch_size
    run.data.batch_size = images // now
    say(f"data.batch_size={run.data.batch_size}: {now} processes train on the same images per step as {before} did")
