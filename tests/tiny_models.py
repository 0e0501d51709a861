"""Models, conditions and exact predictions that several test files share."""

import math

import torch
from conftest import ClosedForm, tiny_unet
from diffusers import DDPMScheduler

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kinds.text import attention_places
from chrysalis.data.batch import Batch
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.models.model import Model
from chrysalis.models.pixel_unet import PixelUNet
from chrysalis.sampling.guidance.energies import Energy

CELEBAHQ = {
    "sample_size": 256,
    "block_out_channels": (8, 8, 16, 16, 24, 24),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    "norm_num_groups": 8,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
}


ALL = ("label", "vector", "mask", "image", "text")


LAYOUTS = {
    "attention": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "celebahq": {**CELEBAHQ, "sample_size": 32},
}


def part_settings(names, unet, levels=()) -> dict:
    how = {
        "label": {"names": ["ant", "bee", "fly"], "dim": 8},
        "vector": {"names": ["span", "mass"], "mean": [3.0, -1.0], "std": [2.0, 0.5], "dim": 8},
        "mask": {},
        "image": {"source": "given"},
        "text": {"places": attention_places(unet, levels), "dim": 8, "heads": 2, "words": ["red", "blue", "moth"]},
    }
    return {name: how[name] for name in names}


def attached_conditioner(unet, names, seed=None, levels=()) -> Conditioner:
    """A conditioner attached to the UNet; with a seed, all its weights are random, as if trained."""
    torch.manual_seed(0)
    conditioner = Conditioner(part_settings(names, unet, levels), unet.time_embedding.linear_2.out_features)
    conditioner.attach(unet)
    if seed is not None:
        torch.manual_seed(seed)
        for p in conditioner.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return conditioner.eval()


def example_conditions(n=4, size=16, seed=3) -> dict:
    g = torch.Generator().manual_seed(seed)
    return {
        "label": torch.tensor([0, 2, -1, 1])[:n],
        "vector": torch.tensor([[1.0, 2.0], [4.0, -1.5], [math.nan, 0.0], [3.0, -1.0]])[:n],
        "mask": torch.randn(n, 1, size, size, generator=g).sign(),
        "image": torch.rand(n, 3, size, size, generator=g) * 2 - 1,
        "text": ("a red moth", None, "", "blue")[:n],
    }


def conditional_batch(n=64, size=16) -> Batch:
    g = torch.Generator().manual_seed(2)
    keys = torch.tensor([seeds.key(7, i) for i in range(n)])
    return Batch(
        torch.randint(0, 256, (n, 3, size, size), generator=g, dtype=torch.uint8),
        torch.arange(n),
        keys,
        torch.rand(n, generator=g),
        n,
        {
            "label": torch.randint(-1, 3, (n,), generator=g),
            "caption": tuple(["a red moth", "", "blue"][i % 3] for i in range(n)),
            "mask": torch.randint(0, 2, (n, 1, size, size), generator=g, dtype=torch.uint8) * 255,
            "conditioning_image": torch.randint(0, 256, (n, 3, size, size), generator=g, dtype=torch.uint8),
            "vector": torch.randn(n, 2, generator=g),
        },
    )


def noisy(n=4, size=16):
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([3, 700, 411, 999])[:n]


class Gaussian(ClosedForm):
    """The exact eps of data ~ N(mean, std^2) in closed form."""

    def __init__(self, abar, mean, std):
        super().__init__(abar.double())
        self.mean, self.std = mean, std

    def forward(self, x, t, return_dict=False):
        place = torch.as_tensor(t, dtype=torch.float64)
        low = place.floor().long().clamp(0, len(self.abar) - 1)
        high = (low + 1).clamp(max=len(self.abar) - 1)
        abar = torch.lerp(self.abar[low].log(), self.abar[high].log(), place - low).exp()
        a, s = abar.sqrt(), (1 - abar).sqrt()
        return ((s * (x - a * self.mean) / (a * a * self.std**2 + s * s)).float(),)


class ToHalf(Energy):
    """Half the mean squared distance to grey 0.5."""

    def loss(self, x0, t, cond):
        return (x0 - 0.5).square().mean(dim=(1, 2, 3)) / 2


def conditional(names=("label", "mask"), prediction="v_prediction") -> Denoiser:
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, names, seed=5)
    training = DDPMScheduler(clip_sample=False, prediction_type=prediction)
    return Denoiser(unet, training, objective(prediction), conditioner)


def model_of(denoiser: Denoiser) -> Model:
    return Model(denoiser.unet, denoiser.scheduler, "a model", denoiser.conditioner, family=PixelUNet())
