"""torch.compile of the UNet alone, in place, for the one batch size that training or drawing repeats."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from chrysalis.errors import UserError

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SECONDS = 90  # of compiling, on two CPU cores; docs/log.md


def compile_unet(unet: nn.Module, how: bool | str, kept: Path, key: str = "compile") -> bool:
    """Compile in place, so that no key of the state dict changes (torch.compile(unet) would rename all of them).

    how: false, true, or one of torch.compile's modes. kept: the folder that keeps what was compiled for later runs.
    Returns whether it is compiled.
    """
    if how in (False, None):
        return False
    mode = "default" if how is True else how
    if mode not in MODES:
        raise UserError(f"{key}={how} is unknown: choose false, true, {', '.join(MODES[1:])}.")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept / "compiled"))
    unet.compile(dynamic=False, mode=None if mode == "default" else mode)
    return True


@contextmanager
def compiled_only_if(full: bool) -> Iterator[None]:
    """Inside, a compiled UNet runs as such if `full`; another batch size would cost another compilation."""
    if full:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
