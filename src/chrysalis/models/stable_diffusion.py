"""Stable Diffusion 1.x and 2.x: UNet2DConditionModel with an AutoencoderKL and CLIP's text encoder, which is frozen."""

from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from chrysalis.conditions.kinds.text import load_encoder
from chrysalis.conditions.prompt import PromptConditioner
from chrysalis.models import lora, training_scheduler
from chrysalis.models.latent_unet import LatentUNet
from chrysalis.models.layout import Layout
from chrysalis.system.errors import UserError

PARTS = {"vae", "text_encoder", "tokenizer"}
IGNORED = {"safety_checker", "feature_extractor", "image_encoder"}


class StableDiffusion(LatentUNet):
    """Text-to-image on latents, conditioned on captions; see LatentUNet for the autoencoder."""

    accepts, name, pipeline = "a Stable Diffusion 1.x/2.x model", "vae", "StableDiffusionPipeline"
    unet_class = UNet2DConditionModel

    @classmethod
    def reads(cls, layout: Layout) -> bool:
        known = layout.others >= PARTS and layout.others <= PARTS | IGNORED and layout.autoencoder == "vae"
        return known and layout.unet.get("_class_name") == "UNet2DConditionModel"

    @classmethod
    def conditioner_of(cls, unet: Any, layout: Layout) -> PromptConditioner:
        folder = layout.folder
        tokenizer, encoder = load_encoder(str(folder / "text_encoder"), "model.pretrained", str(folder / "tokenizer"))
        if getattr(encoder.config, "hidden_size", None) != unet.config["cross_attention_dim"]:
            raise UserError(
                f"{layout.argument} has a UNet with cross_attention_dim={unet.config['cross_attention_dim']} and a "
                "text encoder of another width: give a folder whose parts belong together."
            )
        return PromptConditioner(tokenizer, encoder)

    @classmethod
    def load_lora(cls, unet: Any, folder: Path) -> None:
        how = {"weight_name": "pytorch_lora_weights.safetensors", "use_safetensors": True, "local_files_only": True}
        unet.load_lora_adapter(str(folder), prefix="unet", adapter_name=lora.NAME, **how)

    def needs_own_pipeline(self, unet: Any, conditioner: Any, merge: bool) -> bool:
        return False

    def export(self, folder: Path, unet: Any, scheduler: DDPMScheduler, conditioner: Any, merge: bool) -> None:
        """Write a StableDiffusionPipeline and, into lora/, an unmerged LoRA for `load_lora_weights`."""
        import diffusers  # whose pipelines import transformers

        pipeline: Any = diffusers.StableDiffusionPipeline
        if lora.injected(unet):
            if not merge:
                how = {"unet_lora_layers": lora.weights(unet), "unet_lora_adapter_metadata": lora.settings(unet)}
                pipeline.save_lora_weights(folder / "lora", **how)
            unet = lora.plain(unet, merge)
        encoder, ddim = conditioner.text.frozen[0], training_scheduler.as_ddim(scheduler)
        parts = {"text_encoder": encoder.model, "tokenizer": encoder.tokenizer, "unet": unet, "scheduler": ddim}
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline(vae=self.autoencoder, **parts, **none).save_pretrained(folder, safe_serialization=True)
