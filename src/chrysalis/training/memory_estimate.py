"""Estimate the memory of a training step by running one on fake tensors."""

import copy
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chrysalis.denoiser import Denoiser
from chrysalis.system.hardware import InputDtypeGroupNorm

MARGIN = 1.2  # factor over the count: workspaces of convolutions, and gaps that an allocator leaves
WORDS = 77  # words of the longest caption that is estimated for: CLIP's text encoder reads 77 tokens


class Need(NamedTuple):
    """Bytes of a step. ema: the EMA weights. activations: all else at the step's peak."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


@dataclass(frozen=True)
class Cost:
    """`fixed` + B * `per_image` bytes for a micro-batch of B images."""

    fixed: int
    per_image: int

    def total(self, batch_size: int) -> int:
        return self.fixed + batch_size * self.per_image

    def max_batch_size(self, free_bytes: int) -> int:
        """The largest micro-batch that fits with MARGIN; 0 if none does."""
        return max(0, int((free_bytes / MARGIN - self.fixed) // self.per_image))


def need(
    denoiser: Denoiser,
    size: tuple[int, int],
    batch_size: int,
    precision: torch.dtype | None = None,
    optimizer_bytes_per_weight: float = 8,
    device_type: str = "cuda",
) -> Need:
    """Count the bytes of a training step: the forward pass, and the backward pass into gradients that exist already.

    The step is run on fake tensors, gradient checkpointing included, so that the peak is that of torch's own tensors.
    Not counted: workspaces of kernels (cuDNN), what the allocator wastes, the CUDA context, what torch.compile saves.

    denoiser: is left as it is; its frozen weights have no gradients, moments or EMA. size: (height, width). precision:
    autocast's dtype; None for none. optimizer_bytes_per_weight: 8 for AdamW, 4 for Muon, 2.03 for 8-bit AdamW.
    device_type: whose autocast rules count, "cuda" (MPS has the same) or "cpu".
    """
    parameters = [*denoiser.parameters()]
    trainable = [p for p in parameters if p.requires_grad]
    encoders = (p for encoder in frozen_encoders(denoiser) for p in encoder.model.parameters())
    count = sum(p.numel() for p in trainable)
    return Need(
        weights=tensor_bytes([*parameters, *denoiser.buffers(), *encoders, *denoiser.codec.weights()]),
        gradients=tensor_bytes(trainable),
        optimizer=int(count * optimizer_bytes_per_weight),
        ema=4 * count,
        activations=_peak(denoiser, size, batch_size, precision, device_type),
    )


def cost(denoiser: Denoiser, size: tuple[int, int], **how: Any) -> Cost:
    """The bytes of a step for any batch size, from two counts. how: arguments of `need`."""
    few, more = (need(denoiser, size, n, **how).total for n in (2, 4))
    per_image = (more - few) // 2
    return Cost(few - 2 * per_image, per_image)


def largest_batch(cost: Cost, free_bytes: int, effective_batch: int) -> int:
    """The largest divisor of effective_batch whose step fits into free_bytes with MARGIN; 1 if none does."""
    most = max(1, cost.max_batch_size(free_bytes))
    return max(n for n in range(1, effective_batch + 1) if effective_batch % n == 0 and n <= most)


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Total bytes of the elements of some tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors created in its block: `now` those still alive, `peak` the most at any time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in given:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def freed(_) -> None:
            del self._storages[key]
            self.now -= size

        self._storages[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def _peak(
    denoiser: Denoiser, size: tuple[int, int], batch_size: int, precision: torch.dtype | None, device_type: str
) -> int:
    """The peak bytes of a step on a fake denoiser, besides weights and gradients."""
    autocast = torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None)
    mode = FakeTensorMode()
    fake = _fake(denoiser, mode, upcast=precision is not None and device_type != "cpu")
    with mode:
        for p in fake.parameters():
            p.grad = torch.empty_like(p) if p.requires_grad else None
        with LiveMemory() as live:
            x0, eps = (torch.empty(batch_size, *fake.shape(size)) for _ in range(2))
            t = torch.zeros(batch_size, dtype=torch.int64)
            with autocast:
                loss = fake.loss_at(x0, t, eps, _largest_condition(fake, x0)).value
            if loss.requires_grad:
                loss.backward()
            return live.peak


def _fake(denoiser: Denoiser, mode: FakeTensorMode, upcast: bool) -> Denoiser:
    """The denoiser in training mode with fake weights, on the CPU, whose backward pass needs no device.

    upcast: normalize in float32, as CUDA's autocast does.
    """
    replaced: dict[int, Any] = {id(denoiser.codec): denoiser.codec}  # which a training step does not use
    for tensor in (*denoiser.parameters(), *denoiser.buffers()):
        with mode:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        replaced[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    if denoiser.conditioner is not None and (text := denoiser.conditioner.text) is not None:
        dim = text.null.numel()

        def states(captions: Sequence[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.empty(len(captions), WORDS, dim), torch.ones(len(captions), WORDS, dtype=torch.bool)

        replaced |= {id(encoder): states for encoder in text.frozen}  # with captions as long as they can be
    fake = copy.deepcopy(denoiser, replaced).train()
    for module in fake.modules():
        if upcast and isinstance(module, nn.GroupNorm | nn.LayerNorm) and not isinstance(module, InputDtypeGroupNorm):
            module.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
    return fake


def _largest_condition(denoiser: Denoiser, x0: torch.Tensor) -> dict | None:
    """A condition of every kind, with the longest captions."""
    if denoiser.conditioner is None:
        return None
    cond = denoiser.conditioner.completed(None, x0)
    if (text := denoiser.conditioner.text) is not None:
        word, words = "word", WORDS
        if text.encoder is not None:
            word, words = next(iter(text.encoder.words), ""), text.encoder.longest
        cond["text"] = (" ".join([word] * words),) * len(x0)
    return cond


def frozen_encoders(denoiser: Denoiser) -> list:
    """The pretrained text encoders, which are no part of the denoiser's own weights."""
    text = None if denoiser.conditioner is None else denoiser.conditioner.text
    return [] if text is None else list(text.frozen)
