"""Checks of a model folder's files before memory is allocated for them, and of what was loaded from them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors import safe_open

MAX_BYTES = 2**27  # of a configuration file
MAX = {"layers_per_block": 64, "num_train_timesteps": 100_000, "norm_num_groups": 1024, "attention_head_dim": 4096}
WEIGHTS = "diffusion_pytorch_model.safetensors"
WEIGHTS_FILE = re.compile(r"diffusion_pytorch_model(?:\.([\w-]+?))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.(safetensors|bin)")


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
        if value is not None and not _is_whole(value, most):
            raise ValueError(f"{name}={value!r:.40} in {file} must be a whole number from 1 to {most}")
    channels = config.get("block_out_channels", [1])
    if not isinstance(channels, list) or not 0 < len(channels) < 17 or not all(_is_whole(c, 16_384) for c in channels):
        raise ValueError(f"block_out_channels={channels!r:.60} in {file} must be whole numbers from 1 to 16384")
    size = config.get("sample_size")
    if size is not None and not all(_is_whole(s, 4096) for s in (size if isinstance(size, list) else [size])):
        raise ValueError(f"sample_size={size!r:.40} in {file} must be pixels, from 1 to 4096")


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


@dataclass(frozen=True)
class Weights:
    """The files of a UNet's weights.

    Args:
        names: one file, or its shards.
        variant: such as fp16; None for the plain weights.
        pickled: whether they are .bin files, which only torch's weights-only loader reads.
    """

    names: tuple[str, ...]
    variant: str | None
    pickled: bool


def find_weights(names: Iterable[str]) -> list[Weights]:
    """Return the weights among a folder's file names: plain before variants, of each safetensors before .bin."""
    kinds: dict[tuple[bool, str, bool], list[str]] = {}
    for name in sorted(names):
        if found := WEIGHTS_FILE.fullmatch(name):
            variant = found[1] or found[2]
            kinds.setdefault((variant is not None, variant or "", found[3] == "bin"), []).append(name)
    return [Weights(tuple(files), variant or None, pickled) for (_, variant, pickled), files in sorted(kinds.items())]


def choose_weights(weights: Sequence[Weights], variant: str | None) -> Weights | None:
    """Return the weights of a variant; for None the plain ones, else those of the only variant there is, else None."""
    exact = [w for w in weights if w.variant == variant]
    only = weights if variant is None and len({w.variant for w in weights}) == 1 else []
    return next(iter([*exact, *only]), None)


def refuse_pointers(files: Iterable[Path]) -> None:
    """Raise ValueError for weights that Git LFS has not fetched: a pointer of a few lines instead of the file."""
    for file in files:
        with open(file, "rb") as f:
            if f.read(40).startswith(b"version https://git-lfs"):
                raise ValueError(f"{file} is a Git LFS pointer instead of weights: run `git lfs pull` there")


def require_plausible_size(config: Mapping, folder: Path, weights: Weights) -> None:
    """Raise ValueError if the files hold far fewer numbers than the UNet of `config`, which would take its memory."""
    held = sum((_pickled_size if weights.pickled else _size)(folder / name) for name in weights.names)
    with torch.device("meta"):  # fake tensors: shapes alone
        unet = UNet2DModel.from_config(dict(config))
    assert isinstance(unet, UNet2DModel)  # a tuple only with return_unused_kwargs
    needed = sum(p.numel() for p in unet.parameters())
    if needed > 2 * held:
        raise ValueError(f"its config.json describes a UNet of {needed} weights, and its files hold {held}")


def _size(file: Path) -> int:
    """Count the numbers in a safetensors file."""
    with safe_open(file, "pt") as f:
        return sum(torch.Size(f.get_slice(name).get_shape()).numel() for name in f.keys())  # noqa: SIM118


def _pickled_size(file: Path) -> int:
    """Count the numbers in a .bin file; raises ValueError where the weights-only loader finds more than tensors."""
    try:
        state = torch.load(file, map_location="meta", weights_only=True)
        return sum(weight.numel() for weight in state.values())
    except Exception:  # torch and pickle raise a dozen kinds
        raise ValueError(f"{file.name} is damaged, or holds more than tensors, and no code in it is run") from None


def require_complete(report: Mapping, modules: Sequence[torch.nn.Module]) -> None:
    """Raise ValueError for weights that are missing, left over, or not finite.

    Args:
        report: the loading info of diffusers, which fills gaps with random numbers.
        modules: the loaded modules.
    """
    for key, problem in (("missing_keys", "are missing"), ("unexpected_keys", "belong to another kind of model")):
        if names := sorted(report.get(key, ())):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"its weights {names[0]}{more} {problem}")
    for module in modules:
        for name, weight in module.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise ValueError(f"its weights {name} hold values that are not finite")


def conversion_hint(file: Path) -> str:
    """Return a sentence on converting pickled weights, which can run any code; nothing for another kind of file."""
    if file.suffix not in (".bin", ".ckpt", ".pt", ".pth") or WEIGHTS_FILE.fullmatch(file.name):
        return ""
    return (
        " If you trust it, load it with diffusers (UNet2DModel.from_pretrained(FOLDER, use_safetensors=False)) and let "
        "save_pretrained write it as safetensors."
    )
