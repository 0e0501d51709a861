"""Checks of a model folder's files before memory is allocated for them, and of what was loaded from them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel

MAX_BYTES = 2**27  # the largest configuration file
# the largest value of each setting
MAX = {"block_out_channels": 16_384, "layers_per_block": 64, "attention_head_dim": 4096, "norm_num_groups": 1024}
MAX |= {"sample_size": 4096, "num_train_timesteps": 100_000}


def read_json(file: Path) -> dict:
    """Read a configuration file; raises ValueError, with a reason, if it is missing or not a JSON object."""
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file.name} is missing, or not a text file")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"{file.name} is damaged, not JSON") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file.name} holds no settings")
    return config


def require_sane(config: Mapping, file: str) -> None:
    """Raise ValueError for settings of a UNet or a scheduler that are out of range. file: its name, for messages."""
    for name, most in MAX.items():
        value = config.get(name)
        numbers = value if isinstance(value, list) else [value]
        if value is not None and not (0 < len(numbers) < 17 and all(type(n) is int and 0 < n <= most for n in numbers)):
            raise ValueError(f"{name}={value!r:.60} in {file} must be whole numbers from 1 to {most}")


def refuse_pointers(files: Iterable[Path]) -> None:
    """Raise ValueError for weights that Git LFS has not fetched: a pointer of a few lines instead of the file."""
    for file in files:
        with open(file, "rb") as f:
            if f.read(40).startswith(b"version https://git-lfs"):
                raise ValueError(f"{file} is a Git LFS pointer instead of weights: run `git lfs pull` there")


def require_plausible(config: Mapping, files: Sequence[Path], kind: Any) -> None:
    """Raise ValueError if weight files hold other objects than tensors, or too few for a model of class `kind`."""
    for file in files:
        try:
            if file.suffix == ".bin":
                torch.load(file, map_location="meta", weights_only=True)
        except Exception:  # torch and pickle raise a dozen kinds
            raise ValueError(f"{file.name} is damaged, or holds more than tensors, and no code in it is run") from None
    with torch.device("meta"):  # fake tensors: shapes alone
        model: Any = kind.from_config(dict(config))
    needed, held = sum(p.numel() for p in model.parameters()), sum(file.stat().st_size for file in files)
    if needed > held:
        what = "a UNet" if kind is UNet2DModel else kind.__name__
        raise ValueError(f"its config.json describes {what} of {needed} weights, and its files hold {held} bytes")


def require_complete(report: Mapping, modules: Sequence[torch.nn.Module]) -> None:
    """Raise ValueError for weights that are missing, left over, or not finite.

    report: the loading info of diffusers, which fills gaps with random numbers.
    """
    for key, problem in (("missing_keys", "are missing"), ("unexpected_keys", "belong to another kind of model")):
        if names := sorted(report.get(key, ())):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"its weights {names[0]}{more} {problem}")
    for module in modules:
        for name, weight in module.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise ValueError(f"its weights {name} hold values that are not finite")
