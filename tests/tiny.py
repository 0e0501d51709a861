"""Tiny models for tests, outside conftest.py because of the libraries that they import."""

import functools
import json

import torch
from diffusers import DDPMScheduler, UNet2DModel


def tiny_unet(seed: int = 0, **config) -> UNet2DModel:
    torch.manual_seed(seed)
    settings = {
        "sample_size": 16,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    }
    return UNet2DModel(**{**settings, **config})


def shallow_unet(seed: int = 0) -> UNet2DModel:
    """A UNet of one level, for tests of a thousand forward passes."""
    one = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return tiny_unet(seed, **one, add_attention=False)


class ClosedForm(torch.nn.Module):
    """The attributes of a UNet that a denoiser needs, for exact predictions by a formula."""

    dtype = torch.float32
    config = type("config", (), {"in_channels": 3})

    def __init__(self, abar: torch.Tensor):
        super().__init__()
        self.abar = abar


CLIP_SIZE = 16  # pixels of the tiny CLIP's images


def tiny_clip(folder):
    """A randomly initialized CLIP whose tokens are letters, with weights large enough for its embeddings to differ."""
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir()
    letters = [chr(ord("a") + i) for i in range(26)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    start, end = len(words) - 2, len(words) - 1
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    text = {**layers, **ends, "vocab_size": len(words), "max_position_embeddings": 16}
    vision = {**layers, "image_size": CLIP_SIZE, "patch_size": 4}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return folder


@functools.cache
def _built(name: str, training: str):
    from chrysalis.sampling import schedulers

    return schedulers.build(DDPMScheduler.from_config(json.loads(training)), name)


def built(training: DDPMScheduler, name: str):
    """schedulers.build(training, name), once: diffusers needs half a second for some, and sampling changes none."""
    return _built(name, training.to_json_string())


def losses(mean: float, seed: int, n: int = 24) -> torch.Tensor:
    """Losses [n, 4] that differ much between images and little between measurements."""
    images = torch.linspace(0, 1, n)[:, None]
    return mean + images + 0.01 * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
