"""What both sides start from where nobody gave anything: pictures, and a large model of random weights for a GPU."""

from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from chrysalis.data.sources import Drawn
from chrysalis.data.store import open_set
from chrysalis.terminal import say

PICTURES, SIZE = 583, 256  # as many as the photographs that figures are otherwise measured on
DOWN = ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D")


def pictures(scratch: Path, kept: Path) -> Path:
    """A folder of drawn butterflies as JPEG files. The drawings themselves stay in the user's cache folder."""
    say(f"no --data and no CHRYSALIS_PHOTOGRAPHS: {PICTURES} drawn butterflies (drawn once, kept in {kept})")
    folder = scratch / "pictures"
    folder.mkdir()
    for i, image in enumerate(open_set(Drawn("butterflies", PICTURES), (SIZE, SIZE), "crop").images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:04d}.jpg", quality=90)
    return folder


def large_unet() -> UNet2DModel:
    """google/ddpm-celebahq-256's configuration: 113.7 M weights, here random ones."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=256,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=DOWN,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(DOWN)),
        layers_per_block=2,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )


def large_model(scratch: Path) -> str:
    folder = scratch / "large-model"
    if not folder.is_dir():
        DDPMPipeline(unet=large_unet(), scheduler=DDPMScheduler()).save_pretrained(folder)
    return str(folder)
