"""What fits in 6, 12, 24 and 80 GB: a markdown table, counted and not measured. Half a minute.

python benchmarks/memory.py
"""

import torch
from diffusers import DDPMScheduler, UNet2DModel

from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.models import folder, location
from chrysalis.system.group_norm import normalise_as_given
from chrysalis.training import step_memory

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
WAYS = {  # {name: (autocast, gradient checkpointing, bytes of the optimizer a weight)}
    "fp32": (None, False, 8),
    "bf16": (torch.bfloat16, False, 8),
    "bf16, checkpointing": (torch.bfloat16, True, 8),
    "bf16, checkpointing, 8-bit AdamW": (torch.bfloat16, True, 2.03),
}


def denoisers():
    """(name, denoiser, pixels) of the models in the table."""
    bundled = folder.load(location.BUNDLED)
    known = Denoiser(bundled.unet, bundled.scheduler, objective("epsilon"))
    yield "bundled, 3.5 M", known, 64
    yield "bundled, 3.5 M", known, 256
    large = UNet2DModel(**CELEBAHQ)
    millions = sum(p.numel() for p in large.parameters()) / 1e6
    yield f"ddpm-celebahq-256, {millions:.1f} M", Denoiser(large, DDPMScheduler(), objective("epsilon")), 256


def main() -> None:
    print("The largest micro-batch that fits, and what one of 4 needs in GB (10^9 bytes). Counted, not measured, with")
    print(f"weights, gradients, AdamW and their average, at {step_memory.MARGIN} times what torch's tensors take.\n")
    print("| model | pixels | arithmetic | " + " | ".join(f"{gb} GB" for gb in GIGABYTES) + " | batch of 4 |")
    print("|" + " --- |" * (len(GIGABYTES) + 4))
    for name, denoiser, pixels in denoisers():
        unet = denoiser.unet
        normalise_as_given(unet)  # as training does on a GPU
        for way, (precision, checkpointing, optimizer) in WAYS.items():
            unet.enable_gradient_checkpointing() if checkpointing else unet.disable_gradient_checkpointing()
            how = {"precision": precision, "optimizer_bytes_per_weight": optimizer}
            cost = step_memory.cost(denoiser, (pixels, pixels), **how)
            most = [cost.most(gb * 10**9) for gb in GIGABYTES]
            four = step_memory.MARGIN * cost.total(4) / 1e9
            row = [name, str(pixels), way, *(str(n) if n else "-" for n in most), f"{four:.1f} GB"]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
