"""The family of RGB UNets that work on pixels: UNet2DModel with a DDPM noise schedule, conditional or not."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from chrysalis.conditions import conditioner as conditioner_file
from chrysalis.conditions import text_encoders
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.models import checks, lora, training_scheduler
from chrysalis.models import conditional_pipeline as pipeline_file
from chrysalis.models.checks import Weights
from chrysalis.models.layout import Layout
from chrysalis.models.model import Model
from chrysalis.system.errors import UserError
from chrysalis.system.files import write_text

# What diffusers' EMAModel.save_pretrained writes among the settings of the UNet
EMA_SETTINGS = ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")


class PixelUNet:
    """UNet2DModel on RGB pixels in [-1, 1]. Class labels and other conditions come with Chrysalis' own conditioner."""

    accepts = "a DDPM UNet2DModel on RGB pixels"

    @staticmethod
    def reads(layout: Layout) -> bool:
        """Whether it is a UNet2DModel on pixels: RGB and without labels, or with a conditioner of Chrysalis."""
        config = layout.unet
        if layout.is_foreign or config.get("_class_name") != "UNet2DModel":
            return False
        is_rgb = config.get("in_channels", 3) == 3 and config.get("out_channels", 3) in (3, 6)  # 6: learned variance
        takes_labels = config.get("class_embed_type") or config.get("num_class_embeds")
        return layout.is_conditional or (is_rgb and not takes_labels)

    @classmethod
    def load(cls, layout: Layout, weights: Weights) -> Model:
        """Load the UNet, its training scheduler, a conditioner and a LoRA; see Family.load."""
        folder, argument = layout.folder, layout.argument
        checks.refuse_pointers(layout.unet_at / name for name in weights.names)
        for part in ("conditioner", "text_encoder", "lora"):
            checks.refuse_pointers(sorted((folder / part).glob("*.safetensors")))
        noise = checks.read_json(layout.scheduler_file())
        checks.require_sane(noise, "scheduler_config.json")
        known = {*inspect.signature(UNet2DModel.__init__).parameters, *EMA_SETTINGS}
        training_scheduler.refuse_unknown(layout.unet, known, "config.json", argument)
        scheduler = training_scheduler.read(noise, argument)
        checks.require_plausible_size(layout.unet, layout.unet_at, weights)
        settings = {"low_cpu_mem_usage": False, "local_files_only": True, "output_loading_info": True}
        settings |= {"variant": weights.variant, "use_safetensors": not weights.pickled}
        unet, report = UNet2DModel.from_pretrained(layout.unet_at, **settings)
        conditioner = _load_conditioner(folder, unet) if layout.is_conditional else None
        model = Model(unet, scheduler, str(folder), conditioner, family=cls())
        checks.require_complete(report, model.modules())
        if (folder / "lora").is_dir():
            lora.load(unet, folder / "lora")
        return model

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images [B, 3, H, W] to float32 in [-1, 1]."""
        return pixels.to_signed(images)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Map float [B, 3, H, W] in [-1, 1] to uint8 images."""
        return pixels.to_uint8(x)

    def native_size(self, unet: UNet2DModel) -> tuple[int, int] | None:
        """Return the config's sample_size as (height, width)."""
        native = unet.config["sample_size"]
        return (native, native) if isinstance(native, int) else native and tuple(native)

    def fit(self, unet: UNet2DModel, size: tuple[int, int], key: str) -> None:
        """Write (height, width) into the config; each must be divisible by 2 to the number of downsamplings."""
        is_square = size[0] == size[1]
        multiple = 2 ** (len(unet.config["block_out_channels"]) - 1)
        if any(side % multiple for side in size):
            edges = {edge for side in size for edge in (side // multiple * multiple, -(-side // multiple) * multiple)}
            near = " or ".join(map(str, sorted({max(multiple, edge) for edge in edges})))
            raise UserError(
                f"{key}={size[0] if is_square else list(size)} does not suit this UNet, which halves it "
                f"{multiple.bit_length() - 1} times: use a multiple of {multiple}, such as {near}."
            )
        if self.native_size(unet) != tuple(size):
            unet.register_to_config(sample_size=size[0] if is_square else tuple(size))

    def export(
        self, folder: Path, unet: UNet2DModel, scheduler: DDPMScheduler, conditioner: Conditioner | None, merge: bool
    ) -> None:
        """Write a DDPMPipeline, or a ConditionalPipeline where there is a conditioner or an unmerged LoRA."""
        has_lora = lora.injected(unet)
        if has_lora and not merge:
            lora.save(unet, folder / "lora")
        if has_lora:
            unet = lora.merged(unet) if merge else lora.base(unet)
        if conditioner is None and (merge or not has_lora):
            DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder, safe_serialization=True)
        else:
            _save_with_pipeline_file(folder, unet, scheduler, conditioner)


def _load_conditioner(folder: Path, unet: UNet2DModel) -> Conditioner:
    """Load the conditioner of a conditional model, and attach it to the UNet."""
    settings = {"use_safetensors": True, "low_cpu_mem_usage": False, "local_files_only": True}
    conditioner = Conditioner.from_pretrained(folder / "conditioner", **settings)
    if (folder / "text_encoder").is_dir():
        encoder, tokenizer = str(folder / "text_encoder"), str(folder / "tokenizer")
        conditioner.text.use_encoder(*text_encoders.load(encoder, "model.pretrained", tokenizer))
    conditioner.attach(unet)
    return conditioner


def _save_with_pipeline_file(
    folder: Path, unet: UNet2DModel, scheduler: DDPMScheduler, conditioner: Conditioner | None
) -> None:
    """Write a folder for DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)."""
    parts: dict[str, Any] = {"unet": unet, "scheduler": scheduler}
    libraries = dict.fromkeys(parts, "diffusers")
    if conditioner is not None:
        parts["conditioner"], libraries["conditioner"] = conditioner, "conditioner"
        if conditioner.text is not None and conditioner.text.frozen:
            frozen = conditioner.text.frozen[0]
            parts |= {"text_encoder": frozen.model, "tokenizer": frozen.tokenizer}
            libraries |= dict.fromkeys(("text_encoder", "tokenizer"), "transformers")
    index: dict[str, Any] = {
        "_class_name": ["pipeline", "ConditionalPipeline"],
        "_diffusers_version": diffusers.__version__,
    }
    for name in ("unet", "scheduler", "conditioner", "text_encoder", "tokenizer"):
        index[name] = [libraries[name], type(parts[name]).__name__] if name in parts else [None, None]
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    if conditioner is not None:
        shutil.copyfile(conditioner_file.__file__, folder / "conditioner" / "conditioner.py")
    shutil.copyfile(pipeline_file.__file__, folder / "pipeline.py")
    write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
