"""Export of a trained model into a folder that stock diffusers loads, with its card and a before/after image."""

import json
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import load_file, save_file

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.models.checks import WEIGHTS
from chrysalis.models.model import Family
from chrysalis.models.pixel_unet import PixelUNet
from chrysalis.system.files import write_text, written_folder

_PIXELS = PixelUNet()


def save(
    folder: Path,
    unet: UNet2DModel,
    scheduler: DDPMScheduler,
    card: str,
    strip: torch.Tensor,
    half: bool = False,
    conditioner: Conditioner | None = None,
    merge: bool = True,
    family: Family = _PIXELS,
) -> None:
    """Write a folder that stock diffusers loads, complete or not at all; a conditional one brings its pipeline file.

    Args:
        folder: where to; an existing one is replaced.
        unet: the UNet, with or without a LoRA.
        scheduler: the training scheduler.
        card: the text of README.md.
        strip: uint8 [3, h, w], the card's image before_after.png.
        half: store the UNet as float16, half the size; diffusers loads it back as float32.
        conditioner: the conditioner of a conditional model.
        merge: merge a LoRA into the UNet's weights; else it goes into lora/, and the pipeline file loads it.
        family: the model's family.
    """
    # The only layout that safetensors has
    unet.to(memory_format=torch.contiguous_format)  # pyrefly: ignore[missing-argument]  # hidden by a decorator
    with written_folder(folder) as partial:
        family.export(partial, unet, scheduler, conditioner, merge)
        for file in partial.rglob("*.json"):
            _remove_origin(file)
        if half:
            _halve(partial / "unet" / WEIGHTS)
        write_text(partial / "README.md", card)
        pixels.save_png(strip, partial / "before_after.png")


def _remove_origin(file: Path) -> None:
    """Remove the path of this machine that a part was loaded from: diffusers and transformers write it down."""
    if file.name not in ("config.json", "tokenizer_config.json", "model_index.json"):
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in ("_name_or_path", "name_or_path")}
    if kept != config:
        write_text(file, json.dumps(kept, indent=2) + "\n")


def _halve(weights: Path) -> None:
    """Convert a safetensors file to float16, in place."""
    save_file({name: w.half() for name, w in load_file(weights).items()}, weights, metadata={"format": "pt"})
