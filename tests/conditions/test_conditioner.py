"""Every part of the conditioner against stock diffusers and written-out formulas; a new one changes no bit."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from tiny_models import ALL, LAYOUTS, attached_conditioner, example_conditions, noisy, part_settings

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.models import folder
from chrysalis.models.lora import LoRA
from chrysalis.system.memory import align

COMBINATIONS = [*((name,) for name in ALL), ("label", "mask"), ("text", "image"), ("vector", "text", "mask"), ALL]


# Each combination runs on a flat folder of one layout, these on the other layout too, and two on nested folders; make
# prove runs the rest.
CELEBAHQ_TOO = [("label",), ("text", "image"), ALL]


def surgeries():
    for names in COMBINATIONS:
        for layout, kept in itertools.product(("attention", "celebahq"), ("nested", "flat")):
            chosen = {"attention": (("label",), ALL), "celebahq": ()}[layout] if kept == "nested" else CELEBAHQ_TOO
            quick = names in chosen or (layout, kept) == ("attention", "flat")
            name = f"{'+'.join(names)}-{layout}-{kept}"
            yield pytest.param(names, layout, kept, id=name, marks=[] if quick else pytest.mark.proof)


@pytest.mark.parametrize(("names", "layout", "kept"), [*surgeries()])
def test_surgery_alone_changes_no_bit(tmp_path, names, layout, kept):
    size = LAYOUTS[layout].get("sample_size", 16)
    unet, scheduler = tiny_unet(**LAYOUTS[layout]), DDPMScheduler()
    if kept == "nested":
        DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path)
    else:
        unet.save_pretrained(tmp_path)
        scheduler.save_pretrained(tmp_path)
    stock = align(UNet2DModel.from_pretrained(tmp_path / "unet" if kept == "nested" else tmp_path))
    x, t = noisy(size=size)
    model = folder.load(str(tmp_path))
    conditioner = attached_conditioner(model.unet, names)
    cond = {name: value for name, value in example_conditions(size=size).items() if name in names}
    with torch.no_grad():
        for given in (cond, None, {names[0]: cond[names[0]]}):
            assert torch.equal(conditioner(model.unet, x, t, given), stock(x, t).sample)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(conditioner(model.unet, x, t, cond), stock(x, t).sample)
        LoRA(rank=2).inject(model.unet)
        stock.requires_grad_(
            False
        )  # as LoRA leaves it: torch rounds a linear layer differently when its weights take gradients
        assert torch.equal(conditioner(model.unet, x, t, cond), stock(x, t).sample)


def test_surgery_changes_no_bit_of_the_bundled_model():
    model = folder.load("assets/moths-64")
    x, t = noisy(2, 64)
    with torch.no_grad():
        before = model.unet(x, t).sample
        conditioner = attached_conditioner(model.unet, ALL, levels=(2, 3))
        assert torch.equal(conditioner(model.unet, x, t, example_conditions(2, 64)), before)


def stock_of(unet, weights=None, **config) -> UNet2DModel:
    """A UNet of diffusers' own class with this one's weights, and others in the place of some or beside them."""
    kept = {k: v for k, v in unet.config.items() if k != "_use_default_values"}
    stock = UNet2DModel.from_config({**kept, **config}).eval()
    stock.load_state_dict({**unet.state_dict(), **(weights or {})})
    return stock


def test_a_label_is_stock_diffusers_class_embedding():
    """diffusers' own num_class_embeds, with the product of table and output layer as its table."""
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, ["label"], seed=5)
    part, (x, t), cond = conditioner.embeddings["label"], noisy(), example_conditions()
    table = part.table.weight.double() @ part.out.weight.double().T + part.out.bias.double()
    stock = stock_of(unet, {"class_embedding.weight": table.float()}, num_class_embeds=4)
    with torch.no_grad():
        theirs = stock(x, t, class_labels=torch.tensor([0, 2, 3, 1])).sample
        torch.testing.assert_close(conditioner(unet, x, t, cond), theirs, rtol=1e-4, atol=1e-5)


def test_a_mask_is_stock_diffusers_fourth_channel():
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, ["mask"], seed=5)
    (x, t), cond = noisy(), example_conditions()
    both = torch.cat([unet.conv_in.weight, conditioner.conv_in], dim=1)
    stock = stock_of(unet, {"conv_in.weight": both}, in_channels=4)
    with torch.no_grad():
        ours = conditioner(unet, x, t, cond)
        torch.testing.assert_close(ours, stock(torch.cat([x, cond["mask"]], 1), t).sample, rtol=1e-4, atol=1e-5)
        nothing = stock(torch.cat([x, torch.zeros_like(cond["mask"])], 1), t).sample
        torch.testing.assert_close(conditioner(unet, x, t), nothing, rtol=1e-4, atol=1e-5)
    assert (ours - nothing).abs().max() > 1e-3


def test_a_vector_is_standardized():
    unet = tiny_unet().eval()
    part = attached_conditioner(unet, ["vector"], seed=5).embeddings["vector"]
    p = {name: value.detach().double().numpy() for name, value in part.named_parameters()}

    def silu(v):
        return v / (1 + np.exp(-v))

    def by_hand(v):
        z = (np.array(v) - [3.0, -1.0]) / [2.0, 0.5]
        h = silu(p["inner.2.weight"] @ silu(p["inner.0.weight"] @ z + p["inner.0.bias"]) + p["inner.2.bias"])
        return p["out.weight"] @ h + p["out.bias"]

    with torch.no_grad():
        out = part(example_conditions()["vector"]).double().numpy()
    for row, v in zip(out, ([1, 2], [4, -1.5], None, [3, -1]), strict=True):
        expected = p["out.weight"] @ p["null"] + p["out.bias"] if v is None else by_hand(v)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_cross_attention_is_softmax_of_q_k_times_v():
    """h + O softmax(Q N(h) K(s)^T / sqrt d) V(s) in float64, over the tokens of the caption."""
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, ["text"], seed=5)
    text, (place, key) = conditioner.text, next(iter(conditioner.text.places.items()))
    seen = {}
    layer = unet.get_submodule(place)
    # the layer alone first, then with the attention to text after it
    layer.register_forward_hook(lambda m, a, out: seen.update(h=out), prepend=True)
    layer.register_forward_hook(lambda m, a, out: seen.update(out=out))
    (x, t), cond = noisy(), example_conditions()
    with torch.no_grad():
        conditioner(unet, x, t, cond)
        for i, caption in enumerate(cond["text"]):
            s = text.null[None] if not caption else text.encoder([caption])[0][0]
            a, s, h = text.attentions[key].double(), s.double(), seen["h"][i].double()
            tokens = a.group_norm(h[None]).flatten(2)[0].T
            q, k, v = (m.view(-1, a.heads, m.shape[-1] // a.heads) for m in (a.to_q(tokens), a.to_k(s), a.to_v(s)))
            weight = torch.einsum("phd,shd->hps", q, k).div(math.sqrt(q.shape[-1])).softmax(-1)
            mixed = torch.einsum("hps,shd->phd", weight, v).flatten(1)
            expected = h + a.to_out[0](mixed).T.view_as(h)
            torch.testing.assert_close(seen["out"][i].double(), expected, rtol=1e-3, atol=1e-4)
            text.attentions[key].float()


def test_the_pooled_caption_is_the_sum_of_its_states():
    """With attention that adds 0 the UNet is stock diffusers' own with the embedding W sum(s) / sqrt(L)."""
    unet = tiny_unet().eval()
    text = (conditioner := attached_conditioner(unet, ["text"], seed=5)).text
    for attention in text.attentions.values():
        for p in attention.to_out[0].parameters():
            torch.nn.init.zeros_(p)
    stock, (x, t), cond = stock_of(unet, class_embed_type="identity"), noisy(), example_conditions()
    with torch.no_grad():
        states = [text.null[None] if not c else text.encoder([c])[0][0] for c in cond["text"]]
        sums = [s.sum(0) / len(s) ** 0.5 for s in states]
        vector = torch.stack(sums) @ text.pooled.weight.T + text.pooled.bias
        theirs = stock(x, t, class_labels=vector).sample
        torch.testing.assert_close(conditioner(unet, x, t, cond), theirs, rtol=1e-4, atol=1e-5)
    alone = Conditioner({"text": {**part_settings(["text"], unet)["text"], "pooled": False}}, 32)
    alone.attach(bare := tiny_unet().eval())
    with torch.no_grad():
        assert torch.equal(alone(bare, x, t, cond), tiny_unet().eval()(x, t).sample)


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_an_image_depends_on_its_own_condition_alone(names):
    """The same in a batch as alone; a missing part is its null; and every part changes the output."""
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, names, seed=5)
    (x, t), cond = noisy(), {name: value for name, value in example_conditions().items() if name in names}
    with torch.no_grad():
        out = conditioner(unet, x, t, cond)
        for i in range(4):
            alone = conditioner(unet, x[i : i + 1], t[i : i + 1], batches.rows(cond, [i]))
            torch.testing.assert_close(alone[0], out[i], rtol=1e-4, atol=1e-4)
        nothing = {name: part.null_values(x) for name, part in conditioner.parts.items()}
        assert torch.equal(conditioner(unet, x, t, nothing), conditioner(unet, x, t))
        for name in names:
            other = conditioner(
                unet, x, t, batches.with_nulls(cond, conditioner, {name: [True, False, False, False]}, x)
            )
            assert (other[0] - out[0]).abs().max() > 1e-4, name
            torch.testing.assert_close(other[1:], out[1:], rtol=1e-4, atol=1e-4)


def test_a_deep_copy_is_equal_and_independent():
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, ALL, seed=5)
    (x, t), cond = noisy(), example_conditions()
    other, other_conditioner = copy.deepcopy((unet, conditioner))
    with torch.no_grad():
        before = conditioner(unet, x, t, cond)
        assert torch.equal(other_conditioner(other, x, t, cond), before)
        for p in [*other.parameters(), *other_conditioner.parameters()]:
            p.zero_()
        assert torch.equal(conditioner(unet, x, t, cond), before)


@pytest.mark.parametrize("name", ALL)
def test_a_conditional_unet_runs_through_its_conditioner_alone(name):
    unet = tiny_unet()
    attached_conditioner(unet, [name])
    with pytest.raises(ValueError, match="through its conditioner"):
        unet(*noisy())


@pytest.mark.proof  # compiles
def test_the_unet_compiles_with_its_condition():
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, ALL, seed=5)
    (x, t), cond = noisy(), example_conditions()
    with torch.no_grad():
        eager = conditioner(unet, x, t, cond)
        unet.compile(backend="aot_eager")
        torch.testing.assert_close(conditioner(unet, x, t, cond), eager, rtol=1e-4, atol=1e-5)
        other = {**cond, "text": ("blue", "red", "moth", None)}
        compiled = conditioner(unet, x, t, other)
        with torch.compiler.set_stance("force_eager"):
            torch.testing.assert_close(compiled, conditioner(unet, x, t, other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats(dtype):
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, ALL, seed=5)
    (x, t), cond = noisy(), example_conditions()
    with torch.no_grad():
        single = conditioner(unet, x, t, cond)
        other = conditioner.to(dtype)(unet.to(dtype), x.to(dtype), t, cond)
    assert other.dtype == dtype
    torch.testing.assert_close(other.float(), single, rtol=0.1, atol=0.25 if dtype == torch.bfloat16 else 1e-4)


def test_attaching_again_changes_nothing():
    unet = tiny_unet().eval()
    conditioner = attached_conditioner(unet, ALL, seed=5)
    (x, t), cond = noisy(), example_conditions()
    with torch.no_grad():
        before = conditioner(unet, x, t, cond)
        conditioner.attach(unet)
        assert torch.equal(conditioner(unet, x, t, cond), before)
