"""A markdown table of the batch sizes that fit in 6, 12, 24 and 80 GB, counted rather than measured, in two minutes.

python benchmarks/memory.py
"""

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from chrysalis.conditions.prompt import PromptConditioner
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.models import folder, freezing
from chrysalis.models.lora import LoRA
from chrysalis.models.stable_diffusion import StableDiffusion
from chrysalis.system.hardware import normalize_in_input_dtype
from chrysalis.training import memory_estimate

GIGABYTES = (6, 12, 24, 80)
# google/ddpm-celebahq-256's
CELEBAHQ = {
    "sample_size": 256,
    "layers_per_block": 2,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
SETTINGS = {  # {name: (autocast, gradient checkpointing, optimizer bytes per weight)}
    "fp32": (None, False, 8),
    "bf16": (torch.bfloat16, False, 8),
    "bf16, checkpointing": (torch.bfloat16, True, 8),
    "bf16, checkpointing, 8-bit AdamW": (torch.bfloat16, True, 2.03),
}


def denoisers():
    """Yield (name, denoiser, pixels) of the models in the table."""
    model = folder.load("assets/moths-64")
    bundled = Denoiser(model.unet, model.scheduler, objective("epsilon"))
    yield "moths-64, 3.5 M", bundled, 64
    yield "moths-64, 3.5 M", bundled, 256
    large = UNet2DModel(**CELEBAHQ)
    millions = sum(p.numel() for p in large.parameters()) / 1e6
    yield f"ddpm-celebahq-256, {millions:.1f} M", Denoiser(large, DDPMScheduler(), objective("epsilon")), 256
    yield "Stable Diffusion 1.5, 859.5 M", stable_diffusion(), 512
    with_lora = stable_diffusion()
    LoRA(rank=8).inject(with_lora.unet)
    freezing.freeze(with_lora.unet, with_lora.conditioner)
    yield "Stable Diffusion 1.5, LoRA of rank 8", with_lora, 512


def stable_diffusion() -> Denoiser:
    """Build Stable Diffusion 1.5 on fake weights; the defaults of diffusers' classes are its settings."""
    levels = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    types = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
        autoencoder, encoder = AutoencoderKL(**levels, **types), CLIPTextModel(text)
    conditioner = PromptConditioner(None, encoder)
    family = StableDiffusion(autoencoder)
    return Denoiser(unet, DDPMScheduler(), objective("epsilon"), conditioner, codec=family)


def main() -> None:
    print("The largest micro-batch that fits, and the memory of a micro-batch of 4 in GB (10^9 bytes), counted, not")
    print(f"measured: {memory_estimate.MARGIN} times the tensors, with weights, gradients, AdamW and EMA weights.\n")
    print("| model | pixels | settings | " + " | ".join(f"{gb} GB" for gb in GIGABYTES) + " | batch of 4 |")
    print("|" + " --- |" * (len(GIGABYTES) + 4))
    for name, denoiser, pixels in denoisers():
        unet = denoiser.unet
        normalize_in_input_dtype(unet)  # as training does on a GPU
        for settings, (precision, checkpointing, optimizer) in SETTINGS.items():
            unet.enable_gradient_checkpointing() if checkpointing else unet.disable_gradient_checkpointing()
            how = {"precision": precision, "optimizer_bytes_per_weight": optimizer}
            cost = memory_estimate.cost(denoiser, (pixels, pixels), **how)
            most = [cost.max_batch_size(gb * 10**9) for gb in GIGABYTES]
            four = memory_estimate.MARGIN * cost.total(4) / 1e9
            row = [name, str(pixels), settings, *(str(n) if n else "-" for n in most), f"{four:.1f} GB"]
            print("| " + " | ".join(row) + " |", flush=True)
    print(f"\nOperations of Stable Diffusion 1.5 at 512 px, counted: {operations()}.")


def operations() -> str:
    """Count the forward passes of Stable Diffusion's three networks for one image of 512 px, in 10^12 operations."""
    denoiser = stable_diffusion()
    with torch.device("meta"):
        image, latent, states = torch.empty(1, 3, 512, 512), torch.empty(1, 4, 64, 64), torch.empty(1, 77, 768)
        t, autoencoder = torch.zeros(1), denoiser.codec.autoencoder
        calls = {
            "UNet": lambda: denoiser.unet(latent, t, states),
            "encoder": lambda: autoencoder.encode(image),
            "decoder": lambda: autoencoder.decode(latent),
        }
        counted = []
        for name, call in calls.items():
            with FlopCounterMode(display=False) as counter:
                call()
            counted.append(f"{name} {counter.get_total_flops() / 1e12:.2f} TFLOP")
    return ", ".join(counted)


if __name__ == "__main__":
    main()
