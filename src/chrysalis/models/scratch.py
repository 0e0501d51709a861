"""Models with randomly initialized weights, to train from scratch."""

from typing import Literal

from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler, betas_for_alpha_bar

from chrysalis.data.transforms import height_and_width
from chrysalis.models.model import Model
from chrysalis.models.pixel_unet import PixelUNet
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import Channels, From1To64, NotNegative, Pixels, TrainTimesteps


def build(
    image_size: Pixels | tuple[Pixels, Pixels] | None = None,
    block_out_channels: tuple[Channels, ...] = (32, 64, 96, 128),
    layers_per_block: From1To64 = 1,
    attention_levels: tuple[NotNegative, ...] = (),
    num_train_timesteps: TrainTimesteps = 1000,
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear",
    gradient_checkpointing: bool = False,
    autoencoder: PixelUNet | None = None,
) -> Model:
    """Build a new UNet2DModel and its training scheduler.

    Args:
        image_size: pixels of a side, or (height, width); None: 64.
        block_out_channels: channels of each resolution level, multiples of 8.
        layers_per_block: ResNet layers of each level.
        attention_levels: the levels, 0 for the full resolution, whose blocks have self-attention.
        num_train_timesteps: number of timesteps T.
        beta_schedule: noise schedule, one of DDPMScheduler's; squaredcos_cap_v2 with a smaller largest beta.
        gradient_checkpointing: in training keep only the inputs of each layer, and recompute the rest.
        autoencoder: a LatentUNet, for a UNet on the latents of its autoencoder; None for RGB pixels.
    """
    family = autoencoder or PixelUNet()
    if not block_out_channels or any(channels % 8 for channels in block_out_channels):
        raise UserError(f"model.block_out_channels={list(block_out_channels)} must be one or more multiples of 8.")
    levels = range(len(block_out_channels))
    if any(level not in levels for level in attention_levels):
        raise UserError(f"model.attention_levels={list(attention_levels)} must be from 0 to {len(levels) - 1}.")
    down = tuple("AttnDownBlock2D" if level in attention_levels else "DownBlock2D" for level in levels)
    unet = UNet2DModel(
        in_channels=family.x0_channels,
        out_channels=family.x0_channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        attention_head_dim=None,  # one head: on a CPU the backward pass of 8-channel heads takes a third of a step
        norm_num_groups=next(g for g in (32, 16, 8) if all(c % g == 0 for c in block_out_channels)),
    )
    family.fit(unet, height_and_width(image_size or 64), "data.image_size")
    # clip_sample clips x_0 to [-1, 1], the range of pixels
    betas = _cosine_betas(num_train_timesteps) if beta_schedule == "squaredcos_cap_v2" else None
    noise = {"beta_schedule": beta_schedule, "trained_betas": betas}
    scheduler = DDPMScheduler(num_train_timesteps, **noise, clip_sample=family.factor == 1)
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return Model(unet, scheduler, None, family=family)


def _cosine_betas(num_train_timesteps: int) -> list[float]:
    """The cosine schedule (Nichol and Dhariwal 2021) up to sigma / alpha = 140, where diffusers' ends at 20,000.

    Karras spacing of sampling steps between 20,000 and 0 would spend two thirds of them where x_t is noise alone.
    """
    return betas_for_alpha_bar(num_train_timesteps, max_beta=min(0.999, 150 / num_train_timesteps)).tolist()
