"""A markdown table of the batch sizes that fit in 6, 12, 24 and 80 GB, counted rather than measured, in 30 s.

python benchmarks/memory.py
"""

import torch
from diffusers import DDPMScheduler, UNet2DModel

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.models import folder, location
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
    model = folder.load(location.BUNDLED)
    bundled = Denoiser(model.unet, model.scheduler, objective("epsilon"))
    yield "bundled, 3.5 M", bundled, 64
    yield "bundled, 3.5 M", bundled, 256
    large = UNet2DModel(**CELEBAHQ)
    millions = sum(p.numel() for p in large.parameters()) / 1e6
    yield f"ddpm-celebahq-256, {millions:.1f} M", Denoiser(large, DDPMScheduler(), objective("epsilon")), 256


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
            most = [cost.most(gb * 10**9) for gb in GIGABYTES]
            four = memory_estimate.MARGIN * cost.total(4) / 1e9
            row = [name, str(pixels), settings, *(str(n) if n else "-" for n in most), f"{four:.1f} GB"]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
