"""Pipeline of a conditional model, for diffusers alone; exported folders contain this file.

pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
pipeline(label="monarch", guidance_scale=2).images[0]
"""

from pathlib import Path
from typing import ClassVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from safetensors.torch import load_file


class ConditionalPipeline(DiffusionPipeline):
    """Sampling with classifier-free guidance.

    unet: a LoRA in the folder lora/ beside its own is added through peft. scheduler: any, converted to DDIM.
    conditioner: None for an unconditional model. text_encoder, tokenizer: frozen ones, if the conditioner needs them.
    vqvae: the VQModel or AutoencoderKL of a latent model.
    """

    # pyrefly: ignore[bad-override]  # the parent's is a class variable too, but not annotated
    _optional_components: ClassVar[list] = ["conditioner", "text_encoder", "tokenizer", "vqvae"]

    def __init__(self, unet, scheduler, conditioner=None, text_encoder=None, tokenizer=None, vqvae=None):
        super().__init__()
        lora = Path(unet.config.get("_name_or_path") or "").parent / "lora"
        if (lora / "adapter_config.json").is_file():
            from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

            inject_adapter_in_model(LoraConfig.from_pretrained(str(lora)), unet).eval()
            set_peft_model_state_dict(unet, load_file(lora / "adapter_model.safetensors"))
        if conditioner is not None:
            conditioner.attach(unet)
            if text_encoder is not None:
                conditioner.text.use_encoder(tokenizer, text_encoder)
        scheduler = DDIMScheduler.from_config(scheduler.config)
        parts = {"conditioner": conditioner, "text_encoder": text_encoder, "tokenizer": tokenizer, "vqvae": vqvae}
        self.register_modules(unet=unet, scheduler=scheduler, **parts)

    def predict(self, x: torch.Tensor, t: torch.Tensor, cond: dict) -> torch.Tensor:
        """Return the UNet's output for x [B, C, H, W] at timestep t under a condition; missing parts are null."""
        if self.conditioner is None:
            return self.unet(x, t, return_dict=False)[0]
        return self.conditioner(self.unet, x, t, cond)

    def condition(self, given: dict, x: torch.Tensor) -> dict:
        """Convert arguments of a call to what the conditioner takes for x [B, C, H, W]; None values are left out."""
        parts = {} if self.conditioner is None else self.conditioner.parts
        cond = {name: value for name, value in given.items() if value is not None}
        for name, value in cond.items():
            if name not in parts:
                raise ValueError(f"this model is not conditioned on {name}: it takes {', '.join(parts) or 'nothing'}")
            cond[name] = parts[name].values(value, x)
            if len(cond[name]) != len(x):
                raise ValueError(f"{name} has {len(cond[name])} values for {len(x)} images: give {len(x)}")
        return cond

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        negative: dict | None = None,
        guidance_scale: float = 1.0,
        generator=None,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        return_dict: bool = True,
        **given,
    ):
        """Generate images.

        Args:
            label, text: a name or caption, or one for each image.
            mask: float [1 or B, 1, H, W], 1 inside and -1 outside.
            image: float [1 or B, 3, H, W] in [-1, 1].
            vector: float [D] or [B, D].
            negative: a mapping of these names to conditions to guide away from, instead of the null.
            guidance_scale: 1 for the condition alone, larger for a stronger condition (Ho & Salimans 2022).

        The other arguments, and the result, are those of diffusers' DDPMPipeline.
        """
        size = self.unet.config.sample_size
        shape = (batch_size, self.unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
        x = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        cond, other = self.condition(given, x), self.condition(negative or {}, x)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            out = self.predict(x, t, cond)
            if guidance_scale != 1:
                null = self.predict(x, t, other)
                out = null + guidance_scale * (out - null)
            x = self.scheduler.step(out[:, : shape[1]], t, x, generator=generator).prev_sample
        if self.vqvae is not None:
            x = self.vqvae.decode(x.to(self.vqvae.dtype) / self.vqvae.config.scaling_factor).sample
        images = (x / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)
