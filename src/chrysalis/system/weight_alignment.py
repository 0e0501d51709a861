"""Alignment of weights in memory, so that equal weights compute equal bits."""

import torch

CACHE_LINE = 64  # bytes; what torch's own CPU allocator aligns to


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
