"""What a training step needs to have in memory, counted on fake tensors before one is run."""

import copy
import weakref
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chrysalis.denoiser import Denoiser
from chrysalis.system.group_norm import GroupNormAsGiven

MARGIN = 1.2  # over what is counted: workspaces of convolutions, and gaps that an allocator leaves
WORDS = 77  # of a caption, as CLIP's encoder reads at most


@dataclass(frozen=True)
class Need:
    """Bytes. average: of the weights (EMA). activations: all else at the step's fullest moment."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


@dataclass(frozen=True)
class Cost:
    """`fixed` + B * `each` bytes for a micro-batch of B images."""

    fixed: int
    each: int

    def total(self, batch_size: int) -> int:
        return self.fixed + batch_size * self.each

    def most(self, free_bytes: int) -> int:
        """The largest micro-batch that fits with MARGIN; 0 if none does."""
        return max(0, int((free_bytes / MARGIN - self.fixed) // self.each))


def need(
    denoiser: Denoiser,
    size: tuple[int, int],
    batch_size: int,
    precision: torch.dtype | None = None,
    optimizer_bytes_per_weight: float = 8,
    average: bool = True,
    on: str = "cuda",
) -> Need:
    """Of one training step with images of (height, width): forward, backward into gradients that are there already.

    precision: of autocast, None for none. optimizer_bytes_per_weight: 8 of AdamW, 2.03 of its 8-bit form. on: whose
    autocast rules count, CUDA's (MPS has the same) or the CPU's. Frozen weights have no gradient, moments or average.

    The step is run on tensors that have shapes and no contents, with gradient checkpointing recomputing as it will, so
    that the peak is that of torch's own tensors. Not counted: what a kernel needs besides (cuDNN's workspaces), what
    the allocator wastes, the CUDA context, and torch.compile, which keeps less.
    """
    parameters = [*denoiser.parameters()]
    learning = [p for p in parameters if p.requires_grad]
    held = [*parameters, *denoiser.buffers(), *(p for encoder in _frozen(denoiser) for p in encoder.model.parameters())]
    weights = sum(p.numel() for p in learning)
    return Need(
        weights=_bytes(held),
        gradients=_bytes(learning),
        optimizer=int(weights * optimizer_bytes_per_weight),
        average=4 * weights if average else 0,
        activations=_peak(denoiser, size, batch_size, precision, on),
    )


def cost(denoiser: Denoiser, size: tuple[int, int], **how) -> Cost:
    """Of any batch size, from two counts. how: as of `need`."""
    few, more = (need(denoiser, size, n, **how).total for n in (2, 4))
    each = (more - few) // 2
    return Cost(few - 2 * each, each)


def largest_batch(needed: Cost, free_bytes: int, effective_batch: int) -> int:
    """The largest divisor of effective_batch whose step fits into free_bytes with MARGIN; 1 if none does."""
    most = max(1, needed.most(free_bytes))
    return max(n for n in range(1, effective_batch + 1) if effective_batch % n == 0 and n <= most)


class Live(TorchDispatchMode):
    """Inside, `now` is the bytes of the tensors that were made inside and still live, `peak` the most there were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        out = operation(*arguments, **(keywords or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((arguments, keywords)) if torch.is_tensor(t)}
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in given:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_) -> None:
            del self._storages[key]
            self.now -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _peak(denoiser: Denoiser, size: tuple[int, int], batch_size: int, precision: torch.dtype | None, on: str) -> int:
    """The most bytes that a step on a copy without contents has at once, besides weights and gradients."""
    autocast = torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None)
    without_contents = FakeTensorMode()
    hollow = _hollow(denoiser, without_contents, upcast=precision is not None and on != "cpu")
    with without_contents:
        for p in hollow.parameters():
            p.grad = torch.empty_like(p) if p.requires_grad else None
        with Live() as live:
            x0, eps = (torch.empty(batch_size, hollow.channels, *size) for _ in range(2))
            t = torch.zeros(batch_size, dtype=torch.int64)
            with autocast:
                loss = hollow.loss_at(x0, t, eps, _told(hollow, x0)).value
            if loss.requires_grad:
                loss.backward()
            return live.peak


def _hollow(denoiser: Denoiser, without_contents: FakeTensorMode, upcast: bool) -> Denoiser:
    """A copy in training mode whose weights have no contents. upcast: normalise in float32, as CUDA's autocast does.

    All on the CPU, whose backward pass needs no device.
    """
    known = {}
    for tensor in (*denoiser.parameters(), *denoiser.buffers()):
        with without_contents:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    for encoder in _frozen(denoiser):
        known[id(encoder)] = _unread(denoiser.conditioner.text.null.numel())
    hollow = copy.deepcopy(denoiser, known).train()
    for module in hollow.modules():
        if upcast and isinstance(module, nn.GroupNorm | nn.LayerNorm) and not isinstance(module, GroupNormAsGiven):
            module.register_forward_pre_hook(lambda _, arguments: (arguments[0].float(), *arguments[1:]))
    return hollow


def _unread(dim: int):
    """In place of a frozen text encoder: as many words a caption as it could have."""

    def states(captions, device):
        return torch.empty(len(captions), WORDS, dim), torch.ones(len(captions), WORDS, dtype=torch.bool)

    return states


def _told(denoiser: Denoiser, x0: torch.Tensor) -> dict | None:
    """A condition in every part, with captions as long as can be."""
    conditioner, n = denoiser.conditioner, len(x0)
    if conditioner is None:
        return None
    told = conditioner.completed(None, x0)
    if conditioner.text is not None:
        encoder = conditioner.text.encoder
        words = WORDS if encoder is None else encoder.longest
        known = next(iter(encoder.words), "") if encoder is not None else "word"
        told["text"] = (" ".join([known] * words),) * n
    return told


def _frozen(denoiser: Denoiser) -> list:
    text = None if denoiser.conditioner is None else denoiser.conditioner.text
    return [] if text is None else list(text.frozen)


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
