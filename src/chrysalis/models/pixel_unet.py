"""The families of UNets that work on pixels: UNet2DModel with a DDPM noise schedule, conditional or not."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from chrysalis.conditions import conditioner as conditioner_file
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kinds.text import load_encoder
from chrysalis.data.batch import Batch
from chrysalis.data.pixels import PixelCodec
from chrysalis.data.source import LOW
from chrysalis.models import checks, class_labels, lora, training_scheduler
from chrysalis.models import conditional_pipeline as pipeline_file
from chrysalis.models.layout import Layout, Weights
from chrysalis.models.model import Model
from chrysalis.system.errors import UserError
from chrysalis.system.files import write_text

# What diffusers' EMAModel.save_pretrained writes among the settings of the UNet
EMA_SETTINGS = ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")

FROM_DISK: dict[str, Any] = {"low_cpu_mem_usage": False, "local_files_only": True}


class PixelUNet(PixelCodec):
    """UNet2DModel on RGB pixels in [-1, 1]. Its conditions, class labels among them, are those of a Conditioner.

    accepts: what it reads, with an article, for messages. pipeline: the class of diffusers that it is exported as.
    unet_class: that of the UNet.
    """

    accepts, channels, pipeline = "a DDPM UNet2DModel on RGB pixels", 3, "DDPMPipeline"
    unet_class: Any = UNet2DModel

    @classmethod
    def reads(cls, layout: Layout) -> bool:
        """Whether this family reads the folder, as far as its configuration files say."""
        config, own = layout.unet, cls.channels  # with a learned variance, twice as many come out
        if layout.is_foreign:
            return False
        fits = config.get("in_channels", own) == own and config.get("out_channels", own) in (own, 2 * own)
        return fits and config.get("_class_name") == "UNet2DModel"

    @classmethod
    def other_weights(cls, layout: Layout) -> list[Path]:
        """Folders of the other models that belong to the UNet."""
        return []

    @classmethod
    def from_layout(cls, layout: Layout, weights: dict[Path, Weights]) -> Self:
        """The family with the other models of a folder. weights: by folder, the files to load."""
        return cls()

    @classmethod
    def load(cls, layout: Layout, all_weights: dict[Path, Weights]) -> Model:
        """Load a folder that `reads` accepts; raises UserError, or ValueError with a reason, for a damaged one.

        all_weights: by folder, the files to load.
        """
        weights, folder = all_weights[layout.unet_at], layout.folder
        files = [at / name for at, chosen in all_weights.items() for name in chosen.names]
        # 1. Everything that can be checked before memory is allocated
        parts = (folder / part for part in ("conditioner", "text_encoder", "lora"))
        checks.refuse_pointers([*files, *(file for part in parts for file in sorted(part.glob("*.safetensors")))])
        noise = checks.read_json(layout.scheduler_file())
        checks.require_sane(noise, "scheduler_config.json")
        known = {*inspect.signature(cls.unet_class.__init__).parameters, *EMA_SETTINGS, "id2label"}
        training_scheduler.refuse_unknown(layout.unet, known, "config.json", layout.argument)
        scheduler = training_scheduler.read(noise, layout.argument)
        checks.require_plausible(layout.unet, [layout.unet_at / name for name in weights.names], cls.unet_class)
        family = cls.from_layout(layout, all_weights)
        # 2. The UNet, and what a conditional or adapted model adds to it
        weight_options = {"variant": weights.variant, "use_safetensors": not weights.pickled}
        unet, report = cls.unet_class.from_pretrained(
            layout.unet_at, output_loading_info=True, **weight_options, **FROM_DISK
        )
        conditioner = cls.conditioner_of(unet, layout)
        if conditioner is not None:
            conditioner.attach(unet)
        model = Model(unet, scheduler, str(folder), conditioner, family=family)
        checks.require_complete(report, model.modules())
        if (folder / "lora").is_dir():
            cls.load_lora(unet, folder / "lora")
        return model

    @classmethod
    def load_lora(cls, unet: Any, folder: Path) -> None:
        """Add the unmerged LoRA of a folder to the UNet, in place."""
        lora.load(unet, folder)

    @classmethod
    def conditioner_of(cls, unet: Any, layout: Layout) -> Any:
        """The conditioner of a folder's model; None for an unconditional one."""
        folder = layout.folder
        if not (folder / "conditioner" / "config.json").is_file():
            return class_labels.as_condition(unet, layout)
        conditioner = Conditioner.from_pretrained(folder / "conditioner", use_safetensors=True, **FROM_DISK)
        if (folder / "text_encoder").is_dir():
            encoder, tokenizer = str(folder / "text_encoder"), str(folder / "tokenizer")
            conditioner.text.use_encoder(*load_encoder(encoder, "model.pretrained", tokenizer))
        return conditioner

    def native_size(self, unet: UNet2DModel) -> tuple[int, int] | None:
        """(height, width) in pixels that the UNet was trained at; None if its config does not say."""
        native = unet.config["sample_size"]
        if native is None:
            return None
        height, width = (native, native) if isinstance(native, int) else native
        return self.factor * height, self.factor * width

    def fit(self, unet: UNet2DModel, size: tuple[int, int], key: str) -> None:
        """Write the image size (height, width) into the config; raises UserError if the UNet cannot take it."""
        is_square = size[0] == size[1]
        multiple = self.factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
        if any(side % multiple for side in size):
            edges = {edge for side in size for edge in (side // multiple * multiple, -(-side // multiple) * multiple)}
            near = " or ".join(map(str, sorted({max(multiple, edge) for edge in edges})))
            raise UserError(
                f"{key}={size[0] if is_square else list(size)} does not suit this model, which halves it "
                f"{multiple.bit_length() - 1} times: use a multiple of {multiple}, such as {near}."
            )
        if self.native_size(unet) != tuple(size):
            height, width = (side // self.factor for side in size)
            unet.register_to_config(sample_size=height if is_square else (height, width))

    def needs_own_pipeline(self, unet: Any, conditioner: Any, merge: bool) -> bool:
        """Whether an export needs a pipeline file of its own beside diffusers'."""
        return conditioner is not None or (lora.injected(unet) and not merge)

    def export(
        self, folder: Path, unet: Any, scheduler: DDPMScheduler, conditioner: Conditioner | None, merge: bool
    ) -> None:
        """Write a pipeline of diffusers, or a ConditionalPipeline where there is a conditioner or an unmerged LoRA.

        merge: merge a LoRA into the weights, else save it beside them.
        """
        needs_own_pipeline = self.needs_own_pipeline(unet, conditioner, merge)
        if lora.injected(unet):
            if not merge:
                lora.save(unet, folder / "lora")
            unet = lora.plain(unet, merge)
        if not needs_own_pipeline:
            self.export_plain(folder, unet, scheduler)
            return
        # For DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
        parts: dict[str, tuple[str, Any]] = {"unet": ("diffusers", unet), "scheduler": ("diffusers", scheduler)}
        parts |= {name: ("diffusers", part) for name, part in self.other_parts().items()}
        if conditioner is not None:
            parts["conditioner"] = ("conditioner", conditioner)
            for frozen in conditioner.text.frozen if conditioner.text is not None else ():
                parts["text_encoder"] = ("transformers", frozen.model)
                parts["tokenizer"] = ("transformers", frozen.tokenizer)
        index: dict = {"_class_name": ["pipeline", "ConditionalPipeline"], "_diffusers_version": diffusers.__version__}
        for name, (library, part) in parts.items():
            part.save_pretrained(folder / name)
            index[name] = [library, type(part).__name__]
        if conditioner is not None:
            shutil.copyfile(conditioner_file.__file__, folder / "conditioner" / "conditioner.py")
        shutil.copyfile(pipeline_file.__file__, folder / "pipeline.py")
        write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")

    def export_plain(self, folder: Path, unet: UNet2DModel, scheduler: DDPMScheduler) -> None:
        """Write a DDPMPipeline."""
        DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder, safe_serialization=True)

    def other_parts(self) -> dict[str, Any]:
        """The other models that belong to the UNet, by their names in a ConditionalPipeline."""
        return {}


class GreyUNet(PixelUNet):
    """UNet2DModel on grey pixels; images are converted to their luma."""

    accepts, channels = "a grey one", 1

    def encode_batch(self, batch: Batch) -> torch.Tensor:
        """Images of 16 bits keep their precision; see data/source.py."""
        if LOW not in batch.columns:
            return self.encode(batch.image)
        return (256 * batch.image.float() + batch.columns[LOW].float()) / 32767.5 - 1


class RGBAUNet(PixelUNet):
    """UNet2DModel on RGB pixels and alpha, all in [-1, 1]; images without transparency are opaque.

    Colors are not premultiplied, as PNG stores them; resizing weights them by alpha.
    """

    accepts, channels = "an RGBA one", 4
