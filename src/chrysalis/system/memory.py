"""Free memory, out-of-memory errors, and work in batches that fit."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch

from chrysalis.system.errors import UserError


def free(device: torch.device) -> int:
    """Bytes available to new tensors of this process, including the unused part of torch's reserve."""
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

    Args:
        call: slice of length b -> rows [b, ...].
        at_once: the largest batch.
        advance: called with the number of rows after each batch.

    Returns:
        The rows, [n, ...].
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
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        raise UserError("The free memory of this system is unknown: give data.batch_size as a number.") from None


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
