"""The trained and the frozen text encoder."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_unet
from safetensors.torch import load_file
from tiny_models import attached_conditioner, noisy

from chrysalis.conditions.conditioner import FrozenEncoder, TokenEncoder
from chrysalis.conditions.kinds.text import load_encoder
from chrysalis.system.errors import UserError


def test_unknown_words_are_left_out():
    encoder = TokenEncoder(["blue", "moth", "red"], dim=8, heads=2).eval()
    assert encoder.split("A red, RED dragon!") == ["a", "red", "red", "dragon"]
    with torch.no_grad():
        states, present = encoder(["red moth", "the red dragon moth", "", "blue"])
    assert present.sum(1).tolist() == [3, 3, 1, 2]
    torch.testing.assert_close(states[0, :3], states[1, :3])  # unknown words are left out
    assert (states[3, 1] - states[0, 1]).abs().max() > 1e-3


def test_a_frozen_encoder_runs_once_per_caption(text_encoder_folder):
    tokenizer, model = load_encoder(str(text_encoder_folder))
    frozen, encoded = FrozenEncoder(tokenizer, model, keep=3), []
    model.register_forward_pre_hook(lambda m, args, kwargs: encoded.extend(kwargs["input_ids"]), with_kwargs=True)
    states, present = frozen(["abc", "", "abc"], "cpu")
    assert len(encoded) == 2
    assert torch.equal(states[0], states[2])
    with torch.no_grad():
        alone = tokenizer(["abc"], return_tensors="pt")
        expected = model(**alone).last_hidden_state[0]
    assert present.sum(1).tolist() == [len(expected), 2, len(expected)]
    torch.testing.assert_close(states[0], expected, rtol=1e-5, atol=1e-6)
    encoded.clear()
    frozen(["abc", "ab"], "cpu")
    assert len(encoded) == 1
    frozen(["x", "y"], "cpu")  # the oldest is forgotten
    frozen([""], "cpu")
    assert len(encoded) == 1 + 2 + 1
    assert not any(p.requires_grad for p in model.parameters())


def test_a_pickled_frozen_encoder_runs_no_code(text_encoder_folder, tmp_path):
    folder = shutil.copytree(text_encoder_folder, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    weights = load_file(text_encoder_folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    found, expected = (load_encoder(str(place))[1].state_dict() for place in (folder, text_encoder_folder))
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    torch.save({**weights, "more": Path(folder)}, folder / "pytorch_model.bin")
    for damage in (None, b""):
        if damage is not None:
            (folder / "pytorch_model.bin").write_bytes(damage)
        with pytest.raises(UserError, match=r"pickled could not be .*: pytorch_model\.bin is damaged, or holds more"):
            load_encoder(str(folder))


def test_an_empty_caption_is_no_caption():
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, ["text"], seed=5)
    x, t = noisy()
    with torch.no_grad():
        assert torch.equal(conditioner(unet, x, t, {"text": ("", " ", None, "")}), conditioner(unet, x, t))
