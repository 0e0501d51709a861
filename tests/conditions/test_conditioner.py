"""Each way of conditioning against stock diffusers and formulas written out; at first none changes a bit."""

import copy
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from tiny_models import ALL, LAYOUTS, listening, noisy, specification, told

from chrysalis.conditions import batches
from chrysalis.conditions.conditioner import Conditioner, FrozenEncoder, TokenEncoder
from chrysalis.conditions.kinds.image import derived
from chrysalis.conditions.kinds.text import attention_places
from chrysalis.data.batch import Batch
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.models import folder
from chrysalis.models.freezing import freeze
from chrysalis.models.lora import LoRA
from chrysalis.system.alignment import align
from chrysalis.system.errors import UserError

COMBINATIONS = [*((name,) for name in ALL), ("label", "mask"), ("text", "image"), ("vector", "text", "mask"), ALL]


# Of each combination the flat folder with one layout; of the other layout these, and of nested folders two. make prove
# has the others.
CELEBAHQ_TOO = [("label",), ("text", "image"), ALL]


def surgeries():
    for names in COMBINATIONS:
        for layout, kept in (
            ("attention", "nested"),
            ("attention", "flat"),
            ("celebahq", "flat"),
            ("celebahq", "nested"),
        ):
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
    conditioner = listening(model.unet, names)
    cond = {name: value for name, value in told(size=size).items() if name in names}
    with torch.no_grad():
        for given in (cond, None, {names[0]: cond[names[0]]}):
            assert torch.equal(conditioner(model.unet, x, t, given), stock(x, t).sample)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(conditioner(model.unet, x, t, cond), stock(x, t).sample)
        LoRA(rank=2).inject(model.unet)
        stock.requires_grad_(False)  # as LoRA leaves it: torch rounds a linear layer otherwise when its weights learn
        assert torch.equal(conditioner(model.unet, x, t, cond), stock(x, t).sample)


def test_the_bundled_model_hears_nothing_at_first_either():
    model = folder.load("assets/moths-64")
    x, t = noisy(2, 64)
    with torch.no_grad():
        before = model.unet(x, t).sample
        conditioner = listening(model.unet, ALL, levels=(2, 3))
        assert torch.equal(conditioner(model.unet, x, t, told(2, 64)), before)


def stock_of(unet, **config) -> UNet2DModel:
    """A UNet that diffusers builds from its own class, with this one's weights."""
    kept = {k: v for k, v in unet.config.items() if k != "_use_default_values"}
    stock = UNet2DModel.from_config({**kept, **config}).eval()
    stock.load_state_dict(unet.state_dict())
    return stock


def test_a_label_is_stock_diffusers_class_embedding():
    """diffusers' own num_class_embeds, its table filled with the product that the parts stand for."""
    unet = tiny_unet().eval()
    conditioner = listening(unet, ["label"], seed=5)
    part, (x, t), cond = conditioner.embeddings["label"], noisy(), told()
    kept = {k: v for k, v in unet.config.items() if k != "_use_default_values"}
    stock = UNet2DModel.from_config({**kept, "class_embed_type": None, "num_class_embeds": 4}).eval()
    table = part.table.weight.double() @ part.out.weight.double().T + part.out.bias.double()
    stock.load_state_dict({**unet.state_dict(), "class_embedding.weight": table.float()})
    with torch.no_grad():
        theirs = stock(x, t, class_labels=torch.tensor([0, 2, 3, 1])).sample
        torch.testing.assert_close(conditioner(unet, x, t, cond), theirs, rtol=1e-4, atol=1e-5)


def test_a_mask_is_stock_diffusers_fourth_channel():
    unet = tiny_unet().eval()
    conditioner = listening(unet, ["mask"], seed=5)
    (x, t), cond = noisy(), told()
    stock = stock_of(unet)
    assert stock.config.in_channels == 4
    assert stock.conv_in.weight.shape[1] == 4
    with torch.no_grad():
        ours = conditioner(unet, x, t, cond)
        torch.testing.assert_close(ours, stock(torch.cat([x, cond["mask"]], 1), t).sample, rtol=1e-4, atol=1e-5)
        nothing = stock(torch.cat([x, torch.zeros_like(cond["mask"])], 1), t).sample
        torch.testing.assert_close(conditioner(unet, x, t), nothing, rtol=1e-4, atol=1e-5)
    assert (ours - nothing).abs().max() > 1e-3


def test_a_vector_is_read_in_units_of_its_spread():
    unet = tiny_unet().eval()
    part = listening(unet, ["vector"], seed=5).embeddings["vector"]
    p = {name: value.detach().double().numpy() for name, value in part.named_parameters()}

    def silu(v):
        return v / (1 + np.exp(-v))

    def by_hand(v):
        z = (np.array(v) - [3.0, -1.0]) / [2.0, 0.5]
        h = silu(p["inner.2.weight"] @ silu(p["inner.0.weight"] @ z + p["inner.0.bias"]) + p["inner.2.bias"])
        return p["out.weight"] @ h + p["out.bias"]

    with torch.no_grad():
        out = part(told()["vector"]).double().numpy()
    for row, v in zip(out, ([1, 2], [4, -1.5], None, [3, -1]), strict=True):
        expected = p["out.weight"] @ p["null"] + p["out.bias"] if v is None else by_hand(v)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_cross_attention_is_softmax_of_q_k_times_v():
    """h + O softmax(Q N(h) K(s)^T / sqrt d) V(s), written out in float64, over the tokens that are there."""
    unet = tiny_unet().eval()
    conditioner = listening(unet, ["text"], seed=5)
    text, (place, key) = conditioner.text, next(iter(conditioner.text.places.items()))
    seen = {}
    layer = unet.get_submodule(place)
    layer._forward_hooks.clear()  # the layer alone first, then with the text behind it
    layer.register_forward_hook(lambda m, a, out: seen.update(h=out))
    text.attach(unet)
    layer.register_forward_hook(lambda m, a, out: seen.update(out=out))
    (x, t), cond = noisy(), told()
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


def test_a_caption_as_a_whole_is_the_sum_of_its_states():
    """With silent attention the UNet is stock diffusers' own, told W times that sum over the root of their number."""
    unet = tiny_unet().eval()
    text = (conditioner := listening(unet, ["text"], seed=5)).text
    for attention in text.attentions.values():
        for p in attention.to_out[0].parameters():
            torch.nn.init.zeros_(p)
    stock, (x, t), cond = stock_of(unet), noisy(), told()
    with torch.no_grad():
        states = [text.null[None] if not c else text.encoder([c])[0][0] for c in cond["text"]]
        sums = [s.sum(0) / len(s) ** 0.5 for s in states]
        vector = torch.stack(sums) @ text.pooled.weight.T + text.pooled.bias
        theirs = stock(x, t, class_labels=vector).sample
        torch.testing.assert_close(conditioner(unet, x, t, cond), theirs, rtol=1e-4, atol=1e-5)
    alone = Conditioner({"text": {**specification(["text"], unet)["text"], "pooled": False}}, 32)
    assert alone.attach(tiny_unet()).config.class_embed_type is None


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_a_pictures_condition_is_its_own(names):
    """In a batch as alone; what is not given is the null; and every part is heard."""
    unet = tiny_unet().eval()
    conditioner = listening(unet, names, seed=5)
    (x, t), cond = noisy(), {name: value for name, value in told().items() if name in names}
    with torch.no_grad():
        out = conditioner(unet, x, t, cond)
        for i in range(4):
            alone = conditioner(unet, x[i : i + 1], t[i : i + 1], batches.rows(cond, [i]))
            torch.testing.assert_close(alone[0], out[i], rtol=1e-4, atol=1e-4)
        nothing = {name: conditioner.null(name, x) for name in names}
        assert torch.equal(conditioner(unet, x, t, nothing), conditioner(unet, x, t))
        for name in names:
            other = conditioner(
                unet, x, t, batches.with_nulls(cond, conditioner, {name: [True, False, False, False]}, x)
            )
            assert (other[0] - out[0]).abs().max() > 1e-4, name
            torch.testing.assert_close(other[1:], out[1:], rtol=1e-4, atol=1e-4)


def test_a_copy_of_both_is_independent_and_the_same():
    unet = tiny_unet().eval()
    conditioner = listening(unet, ALL, seed=5)
    (x, t), cond = noisy(), told()
    other, other_conditioner = copy.deepcopy((unet, conditioner))
    with torch.no_grad():
        before = conditioner(unet, x, t, cond)
        assert torch.equal(other_conditioner(other, x, t, cond), before)
        for p in [*other.parameters(), *other_conditioner.parameters()]:
            p.zero_()
        assert torch.equal(conditioner(unet, x, t, cond), before)


def test_a_unet_that_reads_text_is_not_silently_deaf():
    unet = tiny_unet()
    listening(unet, ["text"])
    with pytest.raises(ValueError, match="through its conditioner"):
        unet(*noisy(), class_labels=torch.zeros(4, 32))


def test_words_are_those_of_the_captions():
    encoder = TokenEncoder(["blue", "moth", "red"], dim=8, heads=2).eval()
    assert encoder.unknown("A red, RED dragon!") == ["a", "dragon"]
    with torch.no_grad():
        states, there = encoder(["red moth", "the red dragon moth", "", "blue"])
    assert there.sum(1).tolist() == [3, 3, 1, 2]
    torch.testing.assert_close(states[0, :3], states[1, :3])  # unknown words are left out
    assert (states[3, 1] - states[0, 1]).abs().max() > 1e-3


def test_places_are_the_attention_and_the_levels_asked_for():
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
    with pytest.raises(UserError, match=r"levels=\[6\] must lie in 0\.\.5"):
        attention_places(unet, (6,))
    bare = tiny_unet(add_attention=False)
    with pytest.raises(UserError, match="has no attention"):
        attention_places(bare)


def batch_of(n=64, size=16) -> Batch:
    g = torch.Generator().manual_seed(2)
    keys = torch.tensor([seeds.key(7, i) for i in range(n)])
    return Batch(
        torch.randint(0, 256, (n, 3, size, size), generator=g, dtype=torch.uint8),
        torch.arange(n),
        keys,
        torch.rand(n, generator=g),
        n,
        torch.randint(-1, 3, (n,), generator=g),
        tuple(["a red moth", "", "blue"][i % 3] for i in range(n)),
        torch.randint(0, 2, (n, 1, size, size), generator=g, dtype=torch.uint8) * 255,
        torch.randint(0, 256, (n, 3, size, size), generator=g, dtype=torch.uint8),
        torch.randn(n, 2, generator=g),
    )


def test_a_batch_becomes_its_condition():
    conditioner, batch = listening(tiny_unet(), ALL), batch_of()
    cond = batches.from_batch(batch, conditioner)
    assert torch.equal(cond["label"], batch.label)
    assert cond["text"][:3] == ("a red moth", None, "blue")
    assert set(cond["mask"].unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(cond["image"], batch.conditioning / 127.5 - 1)
    assert batches.rows(cond, [0, 1])["text"] + batches.rows(cond, [2])["text"] == cond["text"][:3]


def test_dropout_takes_each_part_and_all_as_often_as_it_says():
    keys = [seeds.key("k", i) for i in range(20_000)]
    alone = np.array(batches.dropout(["label"], keys, 0.1)["label"])
    assert abs(alone.mean() - 0.1) < 0.01
    gone = batches.dropout(["label", "mask"], keys, 0.1)
    label, mask = (np.array(gone[name]) for name in ("label", "mask"))
    assert abs(label.mean() - 0.19) < 0.01  # 0.1 + 0.9 * 0.1
    assert abs((label & mask).mean() - 0.109) < 0.01  # 0.1 + 0.9 * 0.1^2
    assert batches.dropout(["label", "mask"], keys[5:6], 0.1)["mask"] == [gone["mask"][5]]  # a function of the key
    assert not any(batches.dropout(["label"], keys[:50], 0.0)["label"])


def test_what_is_dropped_is_learned_as_the_null():
    """A loss with dropout 1 is that of the model told nothing, and with 0 that of the model told all."""
    unet = tiny_unet().eval()
    conditioner, batch = listening(unet, ALL, seed=5), batch_of(6)
    always, never = (Denoiser(unet, DDPMScheduler(), objective("epsilon"), conditioner, p).eval() for p in (1.0, 0.0))
    x0, t = batch.image / 127.5 - 1, (batch.u * 1000).long()
    eps = seeds.normal(batch.key.tolist(), (3, 16, 16))
    with torch.no_grad():
        nothing = always.loss_at(x0, t, eps).per_sample
        all_ = never.loss_at(x0, t, eps, batches.from_batch(batch, conditioner)).per_sample
        torch.testing.assert_close(always.loss(batch).per_sample, nothing)
        torch.testing.assert_close(never.loss(batch).per_sample, all_)
    assert (nothing - all_).abs().min() > 1e-6


def test_shuffled_gives_each_picture_anothers():
    values, keys = ["a"] * 5 + ["b"] * 4 + ["c"] * 3, list(range(12))
    order = batches.shuffled(values, keys)
    assert sorted(order) == list(range(12))
    assert all(values[i] != values[j] for i, j in enumerate(order))
    back = batches.shuffled(values[::-1], keys[::-1])  # the same, in whatever order the images come
    assert [11 - j for j in back[::-1]] == order
    assert batches.shuffled(["a"], [1]) == [0]


def test_made_pictures_are_made_of_themselves():
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    for source in ("grey", "small", "given"):
        once = derived(x, source)
        assert once.shape == x.shape
        torch.testing.assert_close(derived(once, source), once, rtol=1e-5, atol=1e-6)
    assert torch.equal(derived(x, "grey")[:, 0], derived(x, "grey")[:, 1])
    torch.testing.assert_close(derived(x, "small")[0, 0, 0, 0], x[0, 0, :8, :8].mean())


def test_a_frozen_encoder_is_asked_once_for_each_caption(text_encoder_folder):
    from chrysalis.conditions.text_encoders import load

    tokenizer, model = load(str(text_encoder_folder))
    frozen = FrozenEncoder(tokenizer, model, keep=3)
    states, there = frozen(["abc", "", "abc"], "cpu")
    assert frozen.encoded == 2
    assert torch.equal(states[0], states[2])
    with torch.no_grad():
        alone = tokenizer(["abc"], return_tensors="pt")
        expected = model(**alone).last_hidden_state[0]
    assert there.sum(1).tolist() == [len(expected), 2, len(expected)]
    torch.testing.assert_close(states[0], expected, rtol=1e-5, atol=1e-6)
    frozen(["abc", "ab"], "cpu")
    assert frozen.encoded == 3
    frozen(["x", "y"], "cpu")  # the oldest is forgotten
    frozen([""], "cpu")
    assert frozen.encoded == 6
    assert not any(p.requires_grad for p in model.parameters())


def test_a_frozen_encoder_may_be_pickled_and_nothing_in_it_is_run(text_encoder_folder, tmp_path):
    from safetensors.torch import load_file

    from chrysalis.conditions.text_encoders import load

    folder = shutil.copytree(text_encoder_folder, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    weights = load_file(text_encoder_folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    found, expected = (load(str(place))[1].state_dict() for place in (folder, text_encoder_folder))
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    torch.save({**weights, "more": Path(folder)}, folder / "pytorch_model.bin")
    for damage in (None, b""):
        if damage is not None:
            (folder / "pytorch_model.bin").write_bytes(damage)
        with pytest.raises(UserError, match=r"pickled could not be .*: pytorch_model\.bin is damaged, or holds more"):
            load(str(folder))


def learned(train, names, adapter=None, steps=3):
    """Which weights of a UNet changed in some AdamW steps, by name, and the conditioner's."""
    unet = tiny_unet()
    conditioner = listening(unet, names) if names else None
    if adapter:
        adapter.inject(unet)
    freeze(unet, conditioner, train)
    denoiser = Denoiser(unet, DDPMScheduler(), objective("epsilon"), conditioner, 0.0)
    before = {name: p.detach().clone() for name, p in denoiser.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in denoiser.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        denoiser.loss(batch_of(8)).value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, p in denoiser.named_parameters() if not torch.equal(p, before[name])}


def test_what_is_to_learn_learns_and_nothing_else():
    new = learned("new", ("label", "mask"))
    assert "unet.conv_in.extra" in new
    assert "unet.conv_in.weight" not in new
    assert all(name.startswith("conditioner.") for name in new - {"unet.conv_in.extra"})
    assert {"conditioner.embeddings.label.out.weight", "conditioner.embeddings.label.table.weight"} <= new
    attention = learned("attention", ("label",))
    assert {n.split(".")[1] for n in attention if n.startswith("unet.")} == {"mid_block"}
    both = learned(["up", "time"], ())
    assert {n.split(".")[1] for n in both} == {"up_blocks", "time_embedding", "down_blocks", "mid_block"}
    assert all("time_emb" in n for n in both if "up_blocks" not in n)
    lora = learned("all", ("mask",), LoRA(rank=2))
    assert all(".lora_" in n or n == "unet.conv_in.extra" for n in lora)
    assert any(".lora_A" in n for n in lora)


def test_what_cannot_learn_is_said():
    with pytest.raises(UserError, match=r"model.train=bees is unknown: choose all, new, attention"):
        learned("bees", ())
    with pytest.raises(UserError, match=r"model.train=new: nothing is new without a condition"):
        learned("new", ())
    with pytest.raises(UserError, match=r"model.train=up has no meaning beside a LoRA"):
        learned("up", (), LoRA(rank=2))
    with pytest.raises(UserError, match="no Linear or Conv2d layer is named conv_in"):
        learned("all", ("mask",), LoRA(targets=["conv_in"]))
    bare = tiny_unet(add_attention=False)
    with pytest.raises(UserError, match="has no such weights"):
        freeze(bare, None, "attention")


@pytest.mark.proof  # compiles
def test_the_unet_compiles_with_its_condition():
    unet = tiny_unet().eval()
    conditioner = listening(unet, ALL, seed=5)
    (x, t), cond = noisy(), told()
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
    conditioner = listening(unet, ALL, seed=5)
    (x, t), cond = noisy(), told()
    with torch.no_grad():
        single = conditioner(unet, x, t, cond)
        other = conditioner.to(dtype)(unet.to(dtype), x.to(dtype), t, cond)
    assert other.dtype == dtype
    torch.testing.assert_close(other.float(), single, rtol=0.1, atol=0.25 if dtype == torch.bfloat16 else 1e-4)


def test_an_empty_caption_is_no_caption():
    unet = tiny_unet().eval()
    conditioner = listening(unet, ["text"], seed=5)
    x, t = noisy()
    with torch.no_grad():
        assert torch.equal(conditioner(unet, x, t, {"text": ("", " ", None, "")}), conditioner(unet, x, t))


def test_attaching_again_changes_nothing():
    unet = tiny_unet().eval()
    conditioner = listening(unet, ALL, seed=5)
    (x, t), cond = noisy(), told()
    with torch.no_grad():
        before = conditioner(unet, x, t, cond)
        conditioner.attach(unet)
        assert torch.equal(conditioner(unet, x, t, cond), before)
