"""A trained model into a folder that stock diffusers loads; a conditional one brings its own pipeline file."""

import json
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from chrysalis.conditions import conditioner as conditioner_file
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.models import conditional_pipeline as pipeline_file
from chrysalis.models import lora
from chrysalis.models.folder import WEIGHTS
from chrysalis.system.files import write_text, written_folder


def save(
    folder: Path,
    unet: UNet2DModel,
    scheduler: DDPMScheduler,
    card: str,
    strip: torch.Tensor,
    half: bool = False,
    conditioner: Conditioner | None = None,
    merge: bool = True,
) -> None:
    """A folder that stock diffusers loads; complete or absent. A conditional model's brings its own pipeline file.

    merge: a LoRA into the UNet's weights; else it lies beside them, in lora/, and the pipeline file puts it in.

    card: README.md. strip: uint8 [3, h, w], its image before_after.png.
    half: store the UNet as float16, half the size; diffusers loads it back as float32.
    """
    unet.to(memory_format=torch.contiguous_format)  # the only layout that safetensors has
    with written_folder(folder) as partial:
        apart = lora.injected(unet) and not merge
        if apart:
            lora.save(unet, partial / "lora")
        if lora.injected(unet):
            unet = lora.plain(unet) if merge else lora.base(unet)
        if conditioner is None and not apart:
            DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(partial, safe_serialization=True)
        else:
            _save_with_pipeline(partial, unet, scheduler, conditioner)
        for file in partial.rglob("*.json"):
            _without_origin(file)
        if half:
            _halve(partial / "unet" / WEIGHTS)
        write_text(partial / "README.md", card)
        pixels.save_png(strip, partial / "before_after.png")


def _save_with_pipeline(
    folder: Path, unet: UNet2DModel, scheduler: DDPMScheduler, conditioner: Conditioner | None
) -> None:
    """A folder for DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)."""
    parts = {"unet": unet, "scheduler": scheduler}
    index = {
        "_class_name": ["pipeline", "ConditionalPipeline"],
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", type(unet).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "conditioner": [None, None],
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    if conditioner is not None:
        parts["conditioner"], index["conditioner"] = conditioner, ["conditioner", "Conditioner"]
    if conditioner is not None and conditioner.text is not None and conditioner.text.frozen:
        parts["tokenizer"], parts["text_encoder"] = (
            conditioner.text.frozen[0].tokenizer,
            conditioner.text.frozen[0].model,
        )
        index |= {name: ["transformers", type(parts[name]).__name__] for name in ("tokenizer", "text_encoder")}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    if conditioner is not None:
        shutil.copyfile(conditioner_file.__file__, folder / "conditioner" / "conditioner.py")
    shutil.copyfile(pipeline_file.__file__, folder / "pipeline.py")
    write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def _without_origin(settings: Path) -> None:
    """diffusers and transformers write down which folder of this machine a part was loaded from."""
    if settings.name not in ("config.json", "tokenizer_config.json", "model_index.json"):
        return
    found = json.loads(settings.read_text(encoding="utf-8"))
    kept = {key: value for key, value in found.items() if key not in ("_name_or_path", "name_or_path")}
    if kept != found:
        write_text(settings, json.dumps(kept, indent=2) + "\n")


def _halve(weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: w.half() for name, w in load_file(weights).items()}, weights, metadata={"format": "pt"})
