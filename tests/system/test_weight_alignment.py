"""Weights whose file puts them at odd addresses compute what they computed before they were saved, to the bit."""

import shutil
import struct
from pathlib import Path

import pytest
import torch
from conftest import tiny_clip, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kinds.text import load_encoder
from chrysalis.evaluation.features import Transformer
from chrysalis.models import export, folder, lora
from chrysalis.models.layout import WEIGHTS
from chrysalis.sampling.guidance.clip import Clip
from chrysalis.system.memory import align, is_aligned

X, T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 700])
# as wide as real layers, in which oneDNN's and MKL's kernels round by address
WIDE = {"block_out_channels": (32, 64), "norm_num_groups": 8}


def push_off(*files: Path) -> None:
    """Lengthen each file's header by spaces, as its format allows, so that no tensor starts on a 64-byte boundary."""
    for file in files:
        raw = file.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = raw[8 : 8 + length].rstrip(b" ")
        longer = len(header) + (40 - 8 - len(header)) % 64  # the data then begins at 40 modulo 64
        file.write_bytes(struct.pack("<Q", longer) + header.ljust(longer) + raw[8 + length :])


def off_boundary(module: torch.nn.Module) -> list[str]:
    return [name for name, tensor in module.state_dict(keep_vars=True).items() if not is_aligned(tensor)]


def output(model) -> torch.Tensor:
    with torch.no_grad():
        return model.unet(X, T).sample


@pytest.fixture
def saved(tmp_path) -> tuple[Path, UNet2DModel]:
    unet = tiny_unet(**WIDE).eval()
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path / "model")
    push_off(*(tmp_path / "model").rglob("*.safetensors"))
    return tmp_path / "model", unet


def test_stock_loading_leaves_weights_where_their_file_has_them(saved):
    """The reason for align(); if this fails, diffusers copies what it loads and align() is not needed any more."""
    at, _ = saved
    assert off_boundary(UNet2DModel.from_pretrained(at / "unet", low_cpu_mem_usage=False))


def test_a_folder_loads_to_aligned_memory_and_the_same_bits(saved, tmp_path):
    at, unet = saved
    model = folder.load(str(at))
    assert not off_boundary(model.unet)
    with torch.no_grad():
        assert torch.equal(output(model), unet(X, T).sample)
    moved = shutil.move(at, tmp_path / "a folder of another name")
    assert torch.equal(output(folder.load(str(moved))), output(model))


@pytest.mark.parametrize("merge", [True, False])
def test_a_lora_merged_or_apart(tmp_path, merge):
    unet = lora.LoRA(rank=2).inject(tiny_unet(**WIDE)).eval()
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    strip = torch.zeros(3, 4, 4, dtype=torch.uint8)
    export.save(tmp_path / "out", unet, DDPMScheduler(), "", strip, merge=merge)
    push_off(*(tmp_path / "out").rglob("*.safetensors"))
    model = folder.load(str(tmp_path / "out"))
    expected = (lora.plain(unet) if merge else unet).requires_grad_(False)
    model.unet.requires_grad_(False)
    assert not off_boundary(model.unet)
    with torch.no_grad():
        assert torch.equal(output(model), expected(X, T).sample)


def test_a_conditioner_and_its_text_encoder(tmp_path, text_encoder_folder):
    unet, width = tiny_unet(**WIDE).eval(), 128
    text = {"places": {"mid_block.attentions.0": 64}, "dim": 16, "words": None}
    conditioner = Conditioner({"label": {"names": ["a", "b"]}, "mask": {}, "text": text}, width).eval()
    conditioner.attach(unet)
    conditioner.text.use_encoder(*load_encoder(str(text_encoder_folder)))
    with torch.no_grad():
        for p in conditioner.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    cond = {"label": torch.tensor([0, 1]), "mask": torch.ones(2, 1, 16, 16), "text": ("a moth", "blue")}
    export.save(
        tmp_path / "out", unet, DDPMScheduler(), "", torch.zeros(3, 4, 4, dtype=torch.uint8), conditioner=conditioner
    )
    push_off(*(tmp_path / "out").rglob("*.safetensors"))
    model = folder.load(str(tmp_path / "out"))
    model.conditioner.eval()
    assert not off_boundary(model.unet)
    assert not off_boundary(model.conditioner)
    assert not off_boundary(model.conditioner.text.frozen[0].model)
    with torch.no_grad():
        assert torch.equal(model.conditioner(model.unet, X, T, cond), conditioner(unet, X, T, cond))


@pytest.mark.parametrize("load", [lambda at: Transformer(at).module, lambda at: Clip(at, "a moth", cutouts=0).vision])
def test_networks_that_evaluate_and_guide(tmp_path, load):
    at = tiny_clip(tmp_path / "clip")
    push_off(at / "model.safetensors")
    sizes = {"height": 16, "width": 16}
    (at / "preprocessor_config.json").write_text(
        f'{{"image_processor_type": "CLIPImageProcessor", "crop_size": {sizes}, "size": {sizes}}}'.replace("'", '"')
    )
    assert not off_boundary(load(str(at)))


def test_aligning_keeps_values_and_layout():
    store = torch.randn(1 + 8 * 4 * 3 * 3)
    conv = torch.nn.Conv2d(4, 8, 3)
    conv.weight.data = store[1:].view(8, 4, 3, 3).to(memory_format=torch.channels_last)
    flat = torch.nn.Parameter(store[1:])
    holder = torch.nn.Module()
    holder.flat, holder.twin = flat, flat
    assert not is_aligned(flat)
    align(holder)
    assert is_aligned(flat)
    assert holder.twin is holder.flat
    assert torch.equal(flat, store[1:])
    assert align(conv).weight.is_contiguous(memory_format=torch.channels_last)


def test_what_a_checkpoint_holds_is_aligned(tmp_path):
    """A file of torch's own gives each storage its own memory, whatever its size."""
    torch.save({f"w{n}": torch.randn(n) for n in range(1, 40)}, tmp_path / "w.ckpt")
    assert all(map(is_aligned, torch.load(tmp_path / "w.ckpt", weights_only=True).values()))


def test_the_files_were_really_pushed_off(saved):
    at, _ = saved
    assert not all(map(is_aligned, load_file(at / "unet" / WEIGHTS).values()))
