"""A run is one folder: starting one, recording its configuration, continuing it."""

import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from chrysalis.errors import UserError
from chrysalis.files import shown, write_text

_process_began: list[float] = [time.time()]


def began() -> float:
    """time.time() when this job began: the first job of a process began with the process."""
    return _process_began.pop() if _process_began else time.time()


def begin(cfg: DictConfig) -> tuple[DictConfig, Path, Path | None]:
    """(configuration, run folder, checkpoint to continue from or None).

    With resume=runs/NAME the configuration is the one recorded there, with this command's overrides on top.
    """
    if not cfg.resume:
        folder = Path(HydraConfig.get().runtime.output_dir)
        if (folder / "config.yaml").exists():
            where = shown(folder)
            raise UserError(
                f"{where} already holds a run: choose another name=..., or continue it with resume={where}."
            )
        return cfg, folder, None
    folder = Path(cfg.resume)
    recorded, checkpoint = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    if not recorded.is_file():
        raise UserError(f"resume={cfg.resume} is not a run: it has no config.yaml. Runs lie in runs/NAME.")
    if not checkpoint.is_file():
        raise UserError(f"resume={cfg.resume} has no checkpoints/last.ckpt yet: start it again without resume.")
    changes = [o for o in HydraConfig.get().overrides.task if o.split("=")[0].lstrip("+~") not in ("resume", "name")]
    if groups := [o for o in changes if "." not in o.split("=")[0] and o.split("=")[0] in _groups(cfg)]:
        raise UserError(
            f"{groups[0]} cannot be given with resume: only single keys such as trainer.max_steps=1000 can."
        )
    merged = OmegaConf.merge(OmegaConf.load(recorded), OmegaConf.from_dotlist(changes))
    merged.resume, merged.run_dir = str(folder), str(folder)
    return merged, folder, checkpoint


def record(cfg: DictConfig, folder: Path) -> None:
    """config.yaml: resolved, enough to run it again."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    plain["resume"] = None
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))


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


def _groups(cfg: DictConfig) -> set[str]:
    return {key for key in cfg if OmegaConf.is_dict(cfg._get_node(key))} | {"experiment"}
