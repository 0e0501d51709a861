"""What each kind makes of the data and the UNet."""

import types

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import REPOSITORY, tiny_unet
from tiny_models import ALL, LAYOUTS, conditional_batch, noisy

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kind import KINDS
from chrysalis.conditions.kinds import build_conditioner
from chrysalis.conditions.kinds.image import Image, derived
from chrysalis.conditions.kinds.text import attention_places
from chrysalis.conditions.request import Request
from chrysalis.data import pixels
from chrysalis.system.errors import UserError


def test_text_attends_after_self_attention_and_on_the_chosen_levels():
    unet = tiny_unet(**LAYOUTS["celebahq"])
    places = attention_places(unet)
    assert set(places) == {
        *(f"down_blocks.4.attentions.{k}" for k in range(2)),
        "mid_block.attentions.0",
        *(f"up_blocks.1.attentions.{k}" for k in range(3)),
    }
    assert places["down_blocks.4.attentions.0"] == places["up_blocks.1.attentions.0"] == 24
    more = attention_places(unet, (0, 5))
    assert {"down_blocks.0.resnets.0", "up_blocks.5.resnets.2", "down_blocks.5.resnets.1"} <= set(more)
    with pytest.raises(UserError, match=r"levels=\[6\] must be levels from 0 to 5"):
        attention_places(unet, (6,))
    bare = tiny_unet(add_attention=False)
    with pytest.raises(UserError, match="this UNet has none: add some with"):
        attention_places(bare)


def test_derived_images_are_idempotent():
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    for source in ("grey", "small", "given"):
        once = derived(x, source)
        assert once.shape == x.shape
        torch.testing.assert_close(derived(once, source), once, rtol=1e-5, atol=1e-6)
    assert torch.equal(derived(x, "grey")[:, 0], derived(x, "grey")[:, 1])
    torch.testing.assert_close(derived(x, "small")[0, 0, 0, 0], x[0, 0, :8, :8].mean())


def test_every_kind_has_its_file_and_its_leaf():
    leaves = {file.stem for file in (REPOSITORY / "conf" / "condition").glob("*.yaml")} - {"none"}
    assert set(KINDS) == leaves == set(ALL)
    assert all(kind.__module__ == f"chrysalis.conditions.kinds.{name}" for name, kind in KINDS.items())


def test_a_new_kind_needs_its_class_alone():
    """It shares the torch part of another kind, and is then built, read, parsed and described like the others."""

    class Edges(Image):
        name, example = "edges", "edges=FILE.png"

        def settings(self, image_set, unet):
            return {"part": "image", "source": self.source}

    try:
        data = types.SimpleNamespace(columns={"conditioning_image": np.zeros(2)})
        module = types.SimpleNamespace(
            image_set=data, source=types.SimpleNamespace(name="a folder"), codec=pixels.PixelCodec()
        )
        conditioner = build_conditioner(unet := tiny_unet(), None, {"edges": Edges()}, module)
        batch = conditional_batch(4)
        cond = batches.from_batch(batch, conditioner)
        assert torch.equal(cond["edges"], pixels.to_signed(batch.columns["conditioning_image"]))
        assert conditioner(unet, *noisy(), cond).shape == (4, 3, 16, 16)
        assert "To set it: edges=FILE.png" in Request(conditioner, {}, "a model").missing()
        with pytest.raises(UserError, match="is conditioned on edges only"):
            Request(conditioner, {"label": "ant"}, "a model")
    finally:
        del KINDS["edges"]


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="condition 'depth' is unknown: choose one of label, vector"):
        Conditioner({"depth": {}}, 32)


def test_a_typed_text_is_as_good_as_a_number_or_a_path(tmp_path, monkeypatch):
    conditioner = Conditioner({"vector": {"names": ["span"], "mean": [0.0], "std": [1.0], "dim": 4}, "mask": {}}, 32)
    monkeypatch.setenv("HOME", str(tmp_path))
    PIL.Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    request = Request(conditioner, {"vector": "12.5", "mask": "~/white.png"}, "a model")
    cond = request.cond([0], [0], (8, 8), "cpu")
    assert cond["vector"].tolist() == [[12.5]]
    assert cond["mask"].min() == 1
    with pytest.raises(UserError, match=r"vector=wide must be 1 numbers: \[span\]"):
        Request(conditioner, {"vector": "wide"}, "a model")
