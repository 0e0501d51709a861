"""Memory: what is free, out-of-memory errors, work in batches that fit, and the alignment of weights."""

import gc
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

CACHE_LINE = 64  # bytes; what torch's own CPU allocator aligns to


def free(device: torch.device) -> int:
    """Bytes available to new tensors of this process; on CUDA including the unused part of torch's reserve."""
    if device.type == "cuda":
        own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + own
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_available_in_system(), *_available_in_container(Path("/sys/fs/cgroup")))


def ran_out(error: BaseException) -> bool:
    """Whether an error means out of memory, on any device."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "_status_alloc_failed")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def in_batches(
    call: Callable[[slice], torch.Tensor],
    n: int,
    at_once: int,
    device: torch.device,
    advance: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Concatenate the rows that `call` returns for slices of range(n), halving the batch when out of memory.

    call: slice of length b -> rows [b, ...]. at_once: the largest b. advance: called with the number of rows of
    each batch done.
    """
    rows: list[torch.Tensor] = []
    while (done := sum(map(len, rows))) < n:
        try:
            rows.append(call(slice(done, min(n, done + at_once))))
            if advance is not None:
                advance(len(rows[-1]))
            continue
        except RuntimeError as error:
            if not ran_out(error) or at_once == 1:
                raise
        at_once //= 2
        release(device)
    return torch.cat(rows)


def release(device: torch.device) -> None:
    """Return the memory that torch's allocator holds in reserve, after a step that did not fit."""
    gc.collect()
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()


def _available_in_system() -> int:
    """MemAvailable of /proc/meminfo; half of all memory where there is no such file (macOS)."""
    file = Path("/proc/meminfo")
    if file.is_file() and (available := re.search(r"MemAvailable: *(\d+) kB", file.read_text(encoding="ascii"))):
        return int(available[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _available_in_container(root: Path) -> list[int]:
    """What the limits of control groups (version 2, version 1) leave; reclaimable file pages count as free."""
    left = []
    for folder, limit, used in (
        (root, "memory.max", "memory.current"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most, now = (int((folder / name).read_text()) for name in (limit, used))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            left.append(max(0, most - now + int(stat.get("inactive_file", 0))))
        except (OSError, ValueError):  # no such group, or `max`: no limit
            continue
    return left


def align(module: torch.nn.Module) -> torch.nn.Module:
    """Move parameters and buffers that lie off a 64-byte boundary to one, in place, and return the module.

    safetensors returns tensors wherever they lie in the file, and oneDNN's kernels round differently there: equal
    weights would give outputs 1e-6 apart, depending on the length of the file's header.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if not is_aligned(tensor):
            tensor.data = tensor.data.clone()
    return module


def is_aligned(tensor: torch.Tensor) -> bool:
    """Whether a tensor starts on a 64-byte boundary; always true on a GPU, whose allocator ensures it."""
    return tensor.device.type != "cpu" or tensor.data_ptr() % CACHE_LINE == 0
