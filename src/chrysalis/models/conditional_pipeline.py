"""Draws with a conditional model folder through diffusers alone; this file lies in every such folder.

pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
pipeline(label="monarch", guidance_scale=2).images[0]
"""

from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from safetensors.torch import load_file


class ConditionalPipeline(DiffusionPipeline):
    """unet, scheduler (drawn with as DDIM) and conditioner; text_encoder and tokenizer if it reads text with them.

    A lora/ folder beside the UNet's is put in through peft.
    """

    _optional_components: ClassVar[list] = ["conditioner", "text_encoder", "tokenizer"]

    def __init__(self, unet, scheduler, conditioner=None, text_encoder=None, tokenizer=None):
        super().__init__()
        lora = Path(unet.config.get("_name_or_path") or "").parent / "lora"
        if (lora / "adapter_config.json").is_file():
            self.adapt(unet, lora)
        if conditioner is not None:
            conditioner.attach(unet)
        if text_encoder is not None:
            conditioner.use_encoder(tokenizer, text_encoder)
        scheduler = DDIMScheduler.from_config(scheduler.config)
        self.register_modules(
            unet=unet, scheduler=scheduler, conditioner=conditioner, text_encoder=text_encoder, tokenizer=tokenizer
        )

    @staticmethod
    def adapt(unet, lora: Path) -> None:
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        inject_adapter_in_model(LoraConfig.from_pretrained(str(lora)), unet).eval()
        set_peft_model_state_dict(unet, load_file(lora / "adapter_model.safetensors"))

    def predict(self, x: torch.Tensor, t: torch.Tensor, cond: dict) -> torch.Tensor:
        if self.conditioner is None:
            return self.unet(x, t, return_dict=False)[0]
        return self.conditioner(self.unet, x, t, cond)

    def condition(self, given: dict, x: torch.Tensor) -> dict:
        """What __call__ was given, as the conditioner takes it; one value stands for every image."""
        cond = {}
        for name, value in given.items():
            if value is None:
                continue
            known = [] if self.conditioner is None else self.conditioner.names
            if name not in known:
                raise ValueError(f"{name} is nothing that this model is told: it knows {', '.join(known) or 'nothing'}")
            cond[name] = self.conditioner.parts[name].values(value, x)
            if len(cond[name]) != len(x):
                raise ValueError(f"{name} has {len(cond[name])} values for {len(x)} images")
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
        """Images. label, text: a name or caption, or one an image. mask: float [1 or B, 1, H, W], 1 inside and -1
        outside. image: float [1 or B, 3, H, W] in [-1, 1]. vector: [D] or [B, D]. guidance_scale: 1 for the condition
        alone, more for more of it (Ho & Salimans 2022), away from the null or from `negative`, a mapping of such names.
        """
        size = self.unet.config.sample_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        own = self.unet.config.in_channels if self.conditioner is None else self.conditioner.config.own_channels
        shape = (batch_size, own, *size)
        x = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        cond, other = self.condition(given, x), self.condition(negative or {}, x)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            out = self.predict(x, t, cond)
            if guidance_scale != 1:
                null = self.predict(x, t, other)
                out = null + guidance_scale * (out - null)
            x = self.scheduler.step(out[:, : shape[1]], t, x, generator=generator).prev_sample
        images = (x / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        images = self.numpy_to_pil(images) if output_type == "pil" else images
        return ImagePipelineOutput(images=images) if return_dict else (images,)
