"""Less memory for the same training: checkpointed gradients and 8-bit moments; and the count of what a step needs."""

import copy
import gc
import io
import weakref

import pytest
import torch
from conftest import TINY_MODEL, TINY_RUN, shallow_unet, tiny_unet
from diffusers import DDPMScheduler
from omegaconf import OmegaConf
from tiny_models import LAYOUTS, attached_conditioner, example_conditions, noisy

from chrysalis.conditions.conditioner import FrozenEncoder
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import objective
from chrysalis.models import folder, scratch
from chrysalis.system import hardware, memory
from chrysalis.system.hardware import normalize_in_input_dtype
from chrysalis.training import memory_estimate
from chrysalis.training.optimization import AdamW8bit, adamw, levels

MODELS = {
    "plain": ((), ()),
    "text": (("text",), ()),
    "text at ResNet layers": (("text",), (0, 1)),  # whose hooks run again in the backward pass
    "mask and label": (("mask", "label"), ()),
}


def learner(names=(), levels=(), checkpointing=False) -> Denoiser:
    unet = tiny_unet(**({} if levels else LAYOUTS["attention"]))
    conditioner = attached_conditioner(unet, names, seed=5, levels=levels) if names else None
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return Denoiser(unet, DDPMScheduler(), objective("epsilon"), conditioner).train()


def step(denoiser, precision=None, n=4):
    """One forward and backward pass: the loss, the gradients, and the bytes that autograd kept in between."""
    x, t = noisy(n)
    cond = {k: v for k, v in example_conditions(n).items() if denoiser.conditioner and k in denoiser.conditioner.names}
    weights = {p.untyped_storage().data_ptr() for p in (*denoiser.parameters(), *denoiser.buffers())}
    kept = []  # the tensors themselves, so that no address is given out twice

    def keep(tensor):
        kept.append(tensor.detach())
        return tensor

    denoiser.zero_grad()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision is not None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        loss = denoiser.loss_at(x, t, torch.ones_like(x), cond or None).value
    storages = {k.untyped_storage().data_ptr(): k.untyped_storage().nbytes() for k in kept}
    loss.backward()
    gradients = {name: p.grad for name, p in denoiser.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, sum(size for at, size in storages.items() if at not in weights)


@pytest.mark.parametrize(
    "precision", [None, pytest.param(torch.bfloat16, marks=pytest.mark.proof)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=[pytest.mark.proof] * (name.startswith(("plain", "text at")))) for name in MODELS],
)
def test_checkpointing_changes_no_bit_of_a_gradient(model, precision):
    loss, gradients, kept = step(learner(*MODELS[model]), precision)
    other_loss, others, less = step(learner(*MODELS[model], checkpointing=True), precision)
    assert torch.equal(loss, other_loss)
    assert gradients.keys() == others.keys()
    assert all(torch.equal(g, others[name]) for name, g in gradients.items())
    assert all(g.abs().max() > 0 for name, g in gradients.items() if "text" in name and "to_out" in name)
    assert memory_estimate.need(learner(*MODELS[model], checkpointing=True), (16, 16), 4).activations < (
        memory_estimate.need(learner(*MODELS[model]), (16, 16), 4).activations
    )
    assert less < kept


def test_checkpointed_text_is_each_forwards_own_and_goes_with_its_graph():
    """Two graphs at once, differentiated in the order in which they were made."""
    together, apart = (learner(("text",), (0, 1), checkpointing=c) for c in (True, False))
    (x, t), captions = noisy(), (("red",) * 4, ("blue moth",) * 4)
    outs = [together(x, t, {"text": text}).out.square().sum() for text in captions]
    seen = []
    for out, text in zip(outs, captions, strict=True):
        together.zero_grad(), apart.zero_grad()
        out.backward()
        apart(x, t, {"text": text}).out.square().sum().backward()
        pairs = zip(together.parameters(), apart.parameters(), strict=True)
        assert all(torch.equal(a.grad, b.grad) for a, b in pairs if a.grad is not None)
    text = together.conditioner.text
    encode = text.forward
    text.forward = lambda captions: (out := encode(captions), seen.append(weakref.ref(out[0])))[0]
    out = together(x, t, {"text": captions[0]}).out.sum()
    assert together.conditioner.context is None
    assert seen[0]() is not None
    out.backward()
    del out
    gc.collect()
    assert seen[0]() is None
    with pytest.raises(ValueError, match="through its conditioner"):
        together.unet(x, t)


def test_checkpointing_goes_with_a_copy_of_the_model():
    denoiser = learner(("text",), (0, 1), checkpointing=True)
    step(denoiser)
    other = copy.deepcopy(denoiser)
    denoiser.conditioner._with_context = None  # whoever calls the first one's fails
    loss, gradients, _ = step(other)
    assert torch.equal(loss, step(learner(("text",), (0, 1)))[0])
    assert gradients


def test_the_key_switches_checkpointing_on(model_folder):
    assert not folder.load(str(model_folder)).unet.is_gradient_checkpointing
    assert folder.load(str(model_folder), gradient_checkpointing=True).unet.is_gradient_checkpointing
    assert scratch.build(16, (8, 16), gradient_checkpointing=True).unet.is_gradient_checkpointing


def trained(make, steps=50, lr=2e-3):
    """A tiny UNet, trained on four fixed images."""
    unet = tiny_unet(block_out_channels=(16, 32)).train()
    denoiser = Denoiser(unet, DDPMScheduler(), objective("epsilon"))
    optimizer = make(denoiser.parameters(), lr=lr)
    x, t = noisy()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = denoiser.loss_at(x, t, torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).value
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return denoiser, optimizer, losses


@pytest.mark.proof  # trains twice
def test_8bit_adamw_trains_as_adamw_does():
    (_, _, exact), (_, optimizer, rounded) = trained(adamw), trained(AdamW8bit)
    assert rounded[-1] < 0.25 * rounded[0]
    assert rounded[-1] == pytest.approx(exact[-1], rel=0.1)
    large = [(p, s) for p, s in optimizer.state.items() if p.numel() >= AdamW8bit.SMALLEST]
    size = sum(v.numel() * v.element_size() for _, s in large for v in s.values() if torch.is_tensor(v))
    assert size == pytest.approx(2 * (1 + 4 / 256) * sum(p.numel() for p, _ in large), rel=0.01)


def test_8bit_adamw_of_small_weights_is_torchs_own():
    g = torch.Generator().manual_seed(0)
    start = torch.randn(4095, generator=g)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 1e-2, "betas": (0.8, 0.95), "weight_decay": 0.1}
    optimizers = AdamW8bit([ours], **settings), torch.optim.AdamW([theirs], **settings)
    for _ in range(5):
        ours.grad = torch.randn(4095, generator=g)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(4096,), (5000,), (16, 32, 3, 3)])
def test_8bit_moments_are_the_nearest_levels(shape):
    """Against a search through all 256; a channels-last weight is kept in the order of a contiguous one."""
    p = torch.nn.Parameter(torch.zeros(shape))
    p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if len(shape) == 4:
        p.data, p.grad = (v.to(memory_format=torch.channels_last) for v in (p.data, p.grad))
    optimizer = AdamW8bit([p])
    optimizer.step()
    m = torch.nn.functional.pad((p.grad * 0.1).contiguous().view(-1), (0, -p.numel() % 256)).view(-1, 256)
    scaled = m / m.abs().amax(1, keepdim=True)
    table = levels(True, p.device)
    nearest = (scaled[..., None] - table).abs().min(-1).values
    found = (scaled - table[optimizer.state[p]["m"].int()]).abs()
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-6)
    assert len(shape) < 4 or p.is_contiguous(memory_format=torch.channels_last)


def test_8bit_adamw_continues_to_the_bit_from_a_file():
    denoiser, optimizer, _ = trained(AdamW8bit, steps=5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(denoiser)
    resumed = AdamW8bit(other.parameters(), lr=1.0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        for p, q in zip(denoiser.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
            q.grad = p.grad.clone()
        optimizer.step(), resumed.step()
    assert all(torch.equal(p, q) for p, q in zip(denoiser.parameters(), other.parameters(), strict=True))


# elsewhere oneDNN works in float32 copies, which nobody would train with
NEEDS_BF16 = pytest.mark.skipif(not hardware.cpu_has_bf16(), reason="this CPU has no bf16 instructions")


def real_peak(denoiser, n, size, precision) -> int:
    """Peak bytes of a step that is really run, from the allocations and releases that torch's profiler recorded."""
    x0, eps = (torch.randn(n, 3, size, size) for _ in range(2))
    for p in denoiser.parameters():
        p.grad = torch.zeros_like(p)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is not None):
            loss = denoiser.loss_at(x0, torch.zeros(n, dtype=torch.int64), eps).value
        loss.backward()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak + 2 * x0.numel() * 4


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("precision", [None, pytest.param(torch.bfloat16, marks=NEEDS_BF16)], ids=["fp32", "bf16"])
def test_the_count_is_the_peak_of_a_real_step(precision, checkpointing):
    """Within 15 %: kernels need memory of their own, almost a tenth of the whole where little else is kept."""
    model = folder.load("assets/moths-64", gradient_checkpointing=checkpointing)
    denoiser = Denoiser(model.unet, model.scheduler, objective("epsilon")).train()
    counted = memory_estimate.need(denoiser, (64, 64), 2, precision, device_type="cpu").activations
    assert counted == pytest.approx(real_peak(denoiser, 2, 64, precision), rel=0.15)


@pytest.mark.parametrize("names", [(), ("mask", "label"), ("text",)], ids="+".join)
def test_what_is_kept_without_contents_is_what_is_kept_with_them(names):
    """At the end of the forward pass: storages that saved_tensors_hooks see, on real tensors."""
    denoiser = learner(names)
    x, t = noisy()
    cond = {k: v for k, v in example_conditions().items() if k in names}
    with memory_estimate.LiveMemory() as live:
        loss = denoiser.loss_at(x, t, torch.ones_like(x), cond or None).value
    assert live.now == pytest.approx(step(denoiser)[2], rel=0.05)
    assert loss.requires_grad
    if "text" not in names:  # whose captions are as long as can be, in the count
        with memory_estimate.LiveMemory() as live:
            denoiser.loss_at(*(v.clone() for v in (x, t, x)), cond or None).value.backward()
        counted = memory_estimate.need(denoiser, (16, 16), 4, device_type="cpu").activations
        assert counted == pytest.approx(live.peak, rel=0.1)


BF16 = {"precision": torch.bfloat16}
NEEDS = [
    pytest.param(names, how, marks=[pytest.mark.proof] * bool(names or how))  # each of many sizes takes a second
    for names in ((), ("label", "mask"), ("label", "vector", "mask", "image", "text"))
    for how in ({}, BF16, {**BF16, "device_type": "cpu"})
]


@pytest.mark.parametrize(("names", "how"), NEEDS)
def test_the_need_grows_with_the_images_and_leaves_the_model_alone(names, how):
    denoiser = learner(names)
    if "text" in names:
        denoiser.conditioner.text.frozen.append(FrozenEncoder(None, torch.nn.Linear(8, 8)))
    before = {name: p.clone() for name, p in denoiser.named_parameters()}
    cost = memory_estimate.cost(denoiser, (16, 16), **how)
    for n in (3, 8, 16):
        assert cost.total(n) == pytest.approx(memory_estimate.need(denoiser, (16, 16), n, **how).total, rel=0.01)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in denoiser.named_parameters())


def test_a_frozen_weight_needs_itself_alone():
    denoiser = learner()
    count = sum(p.numel() for p in denoiser.parameters())
    whole = memory_estimate.need(denoiser, (16, 16), 2, optimizer_bytes_per_weight=2)
    assert (whole.gradients, whole.optimizer, whole.ema) == (4 * count, 2 * count, 4 * count)
    denoiser.requires_grad_(False)
    denoiser.unet.conv_out.requires_grad_(True)
    learning = sum(p.numel() for p in denoiser.unet.conv_out.parameters())
    part = memory_estimate.need(denoiser, (16, 16), 2)
    assert (part.gradients, part.optimizer, part.ema) == (4 * learning, 8 * learning, 4 * learning)
    assert part.weights == whole.weights
    assert part.activations < whole.activations / 2


@pytest.mark.proof
def test_the_largest_divisor_that_fits():
    denoiser = Denoiser(shallow_unet(), DDPMScheduler(), objective("epsilon")).train()
    cost = memory_estimate.cost(denoiser, (16, 16))
    needs = {n: memory_estimate.need(denoiser, (16, 16), n).total for n in (1, 3, 4, 6, 12)}
    for n, total in needs.items():
        room = int(memory_estimate.MARGIN * total * 1.01)
        assert memory_estimate.largest_batch(cost, room, 12) == n
    assert memory_estimate.largest_batch(cost, 0, 12) == 1


def test_free_memory_is_what_the_container_leaves(tmp_path):
    there = memory.free(torch.device("cpu"))
    assert 2**20 < there < 2**50
    for name, text in (("max", "1000\n"), ("current", "700\n"), ("stat", "anon 300\ninactive_file 250\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory._available_in_container(tmp_path) == [550]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._available_in_container(tmp_path) == []


@pytest.mark.proof
def test_batch_size_auto_keeps_the_effective_batch(run, tmp_path, monkeypatch):
    """With memory for less than 12 images at once the same steps are made as in one batch of 12."""
    small = [*TINY_MODEL, *TINY_RUN, "data.n=60", "trainer.precision=32-true"]
    assert run("train", *small, "data.batch_size=12", "name=whole") in (0, None)
    room = memory_estimate.cost(
        Denoiser(scratch.build(16, (8, 16)).unet, DDPMScheduler(), objective("epsilon")), (16, 16)
    )
    monkeypatch.setattr(memory, "free", lambda device: int(memory_estimate.MARGIN * room.total(5)))
    assert run("train", *small, "data.batch_size=auto", "data.effective_batch=12", "name=parts") in (0, None)
    recorded = OmegaConf.load(tmp_path / "runs" / "parts" / "config.yaml")
    assert (recorded.data.batch_size, recorded.trainer.accumulate_grad_batches) == (4, 3)
    whole, parts = (
        torch.load(tmp_path / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, atol=2e-4, rtol=0)


@pytest.mark.parametrize("other", ["trainer.accumulate_grad_batches=2", "trainer.devices=2"])
def test_batch_size_auto_is_refused_where_it_would_guess(run, tmp_path, capfd, other):
    assert run("train", *TINY_MODEL, *TINY_RUN, "data.n=30", "data.batch_size=auto", other, "name=a") == 2
    assert other.split("=")[0] in capfd.readouterr().err
    assert not (tmp_path / "runs" / "a").exists()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_group_norm_as_given_is_group_norm_in_its_own_precision(kind):
    """Against float64; under autocast too the result is in the input's precision, and so are its gradients."""
    plain = torch.nn.GroupNorm(4, 16)
    torch.nn.init.normal_(plain.weight), torch.nn.init.normal_(plain.bias)
    ours = copy.deepcopy(plain)
    normalize_in_input_dtype(ours)
    x = torch.randn(3, 16, 8, 8, dtype=kind, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(x)
    out.float().square().sum().backward()
    exact = copy.deepcopy(plain).double()
    x64 = x.detach().double().requires_grad_()
    expected = exact(x64)
    expected.square().sum().backward()
    assert (out.dtype, x.grad.dtype) == (kind, kind)
    tolerance = 1e-5 if kind == torch.float32 else 3e-2
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(ours.weight.grad.double(), exact.weight.grad, atol=10 * tolerance, rtol=tolerance)
    assert list(ours.state_dict()) == list(plain.state_dict())
