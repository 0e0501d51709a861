"""Export of a trained model into a folder that stock diffusers loads, with its card and a before/after image."""

import json
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jinja2 import StrictUndefined, Template
from safetensors.torch import load_file, save_file

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.models.layout import WEIGHTS
from chrysalis.models.pixel_unet import PixelUNet
from chrysalis.system import hub
from chrysalis.system.files import write_text, written_folder
from chrysalis.system.records import public


def save(
    folder: Path,
    unet: UNet2DModel,
    scheduler: DDPMScheduler,
    card: str,
    strip: torch.Tensor,
    half: bool = False,
    conditioner: Conditioner | None = None,
    merge: bool = True,
    family: PixelUNet | None = None,
) -> None:
    """Write a folder that stock diffusers loads, complete or not at all, with a pipeline file if it needs one.

    Args:
        folder: an existing one is replaced.
        unet, scheduler: the UNet, with or without a LoRA, and its training scheduler.
        card, strip: the text of README.md, and its image before_after.png, uint8 [3, h, w].
        half: store the UNet and an autoencoder as float16, half the size; diffusers loads them back as float32.
        merge: merge a LoRA into the UNet's weights; else it goes into lora/, and the pipeline file loads it.
        family: the model's; by default PixelUNet.
    """
    # safetensors stores contiguous tensors only
    unet.to(memory_format=torch.contiguous_format)  # pyrefly: ignore[missing-argument]  # hidden by a decorator
    family = family or PixelUNet()
    with written_folder(folder) as partial:
        family.export(partial, unet, scheduler, conditioner, merge)
        for file in partial.rglob("*.json"):
            if file.name in ("config.json", "tokenizer_config.json", "model_index.json"):
                # diffusers and transformers record where a part was loaded from, a path on this machine
                config = json.loads(file.read_text(encoding="utf-8"))
                kept = {key: value for key, value in config.items() if key not in ("_name_or_path", "name_or_path")}
                write_text(file, json.dumps(kept, indent=2) + "\n")
        if half:
            for part in ("unet", *family.other_parts()):
                weights = partial / part / WEIGHTS
                halves = {name: weight.half() for name, weight in load_file(weights).items()}
                save_file(halves, weights, metadata={"format": "pt"})
        write_text(partial / "README.md", card)
        pixels.save_png(strip, partial / "before_after.png")


def card(
    results: dict,
    change: str,
    origin: str | None,
    data: str,
    size: tuple[int, int],
    conditions: dict[str, str] | None = None,
    own_pipeline: bool = False,
    pipeline: str = "DDPMPipeline",
    lora_beside: bool = False,
    license: str | None = None,
) -> str:
    """Render the model card as Markdown: the before/after image, how the model was trained, and how to sample from it.

    results: content of results.json. change: how the validation loss compares with the base model's, such as "12 %
    lower than". origin: folder or hub id of the base model; None for training from scratch. data: name of the training
    set, or its folder. size: (height, width) in pixels. conditions: what a conditional model is conditioned on, with a
    description of each. own_pipeline: whether the folder has a pipeline file, needed to load it. pipeline: else the
    class of diffusers that loads it. lora_beside: whether a LoRA is in lora/. license: identifier of a
    licence, such as apache-2.0.
    """
    text = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    how = {"keep_trailing_newline": True, "trim_blocks": True, "lstrip_blocks": True}
    hub_id, revision = hub.split_revision(origin) if origin and hub.is_id(origin) else (None, None)
    return Template(text, undefined=StrictUndefined, **how).render(
        results=results,
        change=change,
        origin=origin and public(origin),
        base_model=hub_id,
        revision=revision,
        title=Path(data).name if Path(data).is_dir() else data,
        size=size,
        conditions=conditions or {},
        own_pipeline=own_pipeline,
        pipeline=pipeline,
        lora_beside=lora_beside,
        license=license,
        dataset=data if hub.is_id(data) else None,
        commands=[public(command) for command in [results["command"], *results["continued_by"]]],
    )
