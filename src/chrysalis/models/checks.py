"""Whether a model folder's files can be what they say, before memory is taken for them, and what they hold."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors import safe_open

LARGEST = 2**27  # bytes of a configuration file
MOST = {"layers_per_block": 64, "num_train_timesteps": 100_000, "norm_num_groups": 1024, "attention_head_dim": 4096}
WEIGHTS = re.compile(r"diffusion_pytorch_model(?:\.([\w-]+?))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.(safetensors|bin)")


def settings(file: Path) -> dict:
    """A configuration file's; ValueError, with a reason in words, for one that is none or holds numbers of no sense."""
    if not file.is_file() or file.stat().st_size > LARGEST:
        raise ValueError(f"{file.name} is missing, or no text file")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"{file.name} is damaged, no JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no settings")
    for name, most in MOST.items():
        value = found.get(name)
        if value is not None and not _is_whole(value, most):
            raise ValueError(f"{name}={value!r:.40} in {file.name} must be a whole number from 1 to {most}")
    channels = found.get("block_out_channels", [1])
    if not isinstance(channels, list) or not 0 < len(channels) < 17 or not all(_is_whole(c, 16_384) for c in channels):
        raise ValueError(f"block_out_channels={channels!r:.60} in {file.name} must be whole numbers from 1 to 16384")
    size = found.get("sample_size")
    if size is not None and not all(_is_whole(s, 4096) for s in (size if isinstance(size, list) else [size])):
        raise ValueError(f"sample_size={size!r:.40} in {file.name} must be pixels, from 1 to 4096")
    return found


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


@dataclass(frozen=True)
class Weights:
    """Files of a UNet's weights, whole or in shards. variant: such as fp16, None for the plain ones.

    pickled: .bin files, which are only ever read by torch's weights-only loader.
    """

    names: tuple[str, ...]
    variant: str | None
    pickled: bool


def weights_among(names: Iterable[str]) -> list[Weights]:
    """The weights that are among a folder's file names: plain before variants, of each safetensors before .bin."""
    kinds: dict[tuple[bool, str | None, bool], list[str]] = {}
    for name in sorted(names):
        if found := WEIGHTS.fullmatch(name):
            variant = found[1] or found[2]
            kinds.setdefault((variant is not None, variant or "", found[3] == "bin"), []).append(name)
    return [Weights(tuple(files), variant or None, bin) for (_, variant, bin), files in sorted(kinds.items())]


def chosen(weights: Sequence[Weights], variant: str | None) -> Weights | None:
    """Those of the variant; where none is asked for, the plain ones, else those of the only variant. None: refuse."""
    exact = [w for w in weights if w.variant == variant]
    only = weights if variant is None and len({w.variant for w in weights}) == 1 else []
    return next(iter([*exact, *only]), None)


def refuse_pointers(files: Iterable[Path]) -> None:
    """ValueError for weights that Git LFS has not fetched: the file is a few lines that say where they are."""
    for file in files:
        with open(file, "rb") as f:
            if f.read(40).startswith(b"version https://git-lfs"):
                raise ValueError(f"{file} is a Git LFS pointer, no weights: run `git lfs pull` there")


def require_weights_of(config: Mapping, folder: Path, weights: Weights) -> None:
    """ValueError if the files hold far fewer numbers than the UNet of `config` has: memory would be taken for it."""
    held = sum((_pickled_size if weights.pickled else _size)(folder / name) for name in weights.names)
    with torch.device("meta"):  # shapes without numbers
        asked = sum(p.numel() for p in UNet2DModel.from_config(dict(config)).parameters())
    if asked > 2 * held:
        raise ValueError(f"its config.json describes a UNet of {asked} weights, and its files hold {held}")


def _size(file: Path) -> int:
    """How many numbers a safetensors file holds."""
    with safe_open(file, "pt") as f:
        return sum(torch.Size(f.get_slice(name).get_shape()).numel() for name in f.keys())  # noqa: SIM118


def _pickled_size(file: Path) -> int:
    """How many numbers a .bin file holds; ValueError where torch's weights-only loader finds anything but tensors."""
    try:
        state = torch.load(file, map_location="meta", weights_only=True)
        return sum(weight.numel() for weight in state.values())
    except Exception:  # torch and pickle raise a dozen kinds
        raise ValueError(f"{file.name} is damaged, or holds more than tensors, and no code in it is run") from None


def require_complete(report: Mapping, modules: Sequence[torch.nn.Module]) -> None:
    """ValueError for weights that a loaded UNet lacks, that it has no use for, or that are no numbers.

    report: the loading info of diffusers, which would fill gaps with random numbers.
    """
    for what, words in (("missing_keys", "are missing"), ("unexpected_keys", "belong to another kind of model")):
        if names := sorted(report.get(what, ())):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"of its weights {names[0]}{more} {words}")
    for module in modules:
        for name, weight in module.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise ValueError(f"its weights {name} hold values that are not finite")


def unpickled(file: Path) -> str:
    """How to come from pickled weights, which can run any code, to safetensors; nothing for another file."""
    if file.suffix not in (".bin", ".ckpt", ".pt", ".pth") or WEIGHTS.fullmatch(file.name):
        return ""
    return (
        " If you trust it, load it with diffusers (UNet2DModel.from_pretrained(FOLDER, use_safetensors=False)) and let "
        "save_pretrained write it as safetensors."
    )
