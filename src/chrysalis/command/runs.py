"""A run is one folder: starting or resuming it, and recording its configuration."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import chrysalis
from chrysalis.command import resume
from chrysalis.command.config_tree import as_dict
from chrysalis.command.errors import CONF
from chrysalis.system import checkpoints
from chrysalis.system.errors import UserError
from chrysalis.system.files import read_mapping, shown, write_text
from chrysalis.system.records import leaves
from chrysalis.system.terminal import is_main_process

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
    if cfg.resume:
        resume.require_recorded(cfg.resume, folder)
        checkpoint = checkpoints.newest(folder)
        return resume.recorded(cfg, folder), folder, checkpoint
    used = any((folder / name).exists() for name in ("results.json", "checkpoints"))
    if used and is_main_process():
        where = shown(folder)
        raise UserError(f"{where} already holds a run: choose another name, or continue it with resume={where}.")
    return cfg, folder, None


def typed() -> set[str]:
    """The keys on the command line, those beside resume=RUN included."""
    given = [*HydraConfig.get().overrides.task, *resume.changes]
    return {override.split("=")[0].lstrip("+~") for override in given}


def chosen(cfg: DictConfig, keys: Iterable[str]) -> set[str]:
    """Those of some callbacks' keys that the user chose: typed, or other than in conf/callbacks."""
    defaults = {key: OmegaConf.load(CONF / "callbacks" / f"{key.split('.')[1]}.yaml") for key in keys}
    return typed() & {*defaults} | {
        key
        for key, callback in defaults.items()
        if OmegaConf.select(cfg, key) != OmegaConf.select(callback, key.removeprefix("callbacks."))
    }


def nothing_to_do(cfg: DictConfig, folder: Path) -> str | None:
    """A message if a run has trained for the configured steps and its export is complete and up to date, else None."""
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
    if not ends or _export_settings(cfg) != _export_settings(resume.read(folder / "config.yaml")):
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
