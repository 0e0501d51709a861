"""Whether a model folder's files can be what they say, before memory is taken for them, and what they hold."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors import safe_open

LARGEST = 2**27  # bytes of a configuration file
MOST = {"layers_per_block": 64, "num_train_timesteps": 100_000, "norm_num_groups": 1024, "attention_head_dim": 4096}
WEIGHTS = re.compile(r"diffusion_pytorch_model(?:\.([\w-]+?))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors")


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


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors of a variant (None: the plain ones), whole or in shards, as diffusers names them."""
    found = ((file, WEIGHTS.fullmatch(file.name)) for file in sorted(folder.glob("*.safetensors")))
    return [file for file, name in found if name and (name[1] or name[2]) == variant]


def variants(folder: Path) -> list[str | None]:
    """Those that there are weights of, None for the plain ones."""
    found = [WEIGHTS.fullmatch(file.name) for file in sorted(folder.glob("*.safetensors"))]
    return list(dict.fromkeys(name[1] or name[2] for name in found if name))


def refuse_pointers(files: Iterable[Path]) -> None:
    """ValueError for weights that Git LFS has not fetched: the file is a few lines that say where they are."""
    for file in files:
        with open(file, "rb") as f:
            if f.read(40).startswith(b"version https://git-lfs"):
                raise ValueError(f"{file} is a Git LFS pointer, no weights: run `git lfs pull` there")


def require_weights_of(config: Mapping, folder: Path, variant: str | None = None) -> None:
    """ValueError if the files hold far fewer numbers than the UNet of `config` has: memory would be taken for it."""
    held = 0
    for file in weight_files(folder, variant):
        with safe_open(file, "pt") as f:
            held += sum(torch.Size(f.get_slice(name).get_shape()).numel() for name in f.keys())  # noqa: SIM118
    with torch.device("meta"):  # shapes without numbers
        asked = sum(p.numel() for p in UNet2DModel.from_config(dict(config)).parameters())
    if asked > 2 * held:
        raise ValueError(f"its config.json describes a UNet of {asked} weights, and its files hold {held}")


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


def unpickled(file: Path | None) -> str:
    """How to come from pickled weights, which can run any code, to safetensors; nothing for another file."""
    if file is None or file.suffix not in (".bin", ".ckpt", ".pt", ".pth"):
        return ""
    return (
        " If you trust it, load it with diffusers (UNet2DModel.from_pretrained(FOLDER, use_safetensors=False)) and let "
        "save_pretrained write it as safetensors."
    )
