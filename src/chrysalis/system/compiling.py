"""torch.compile of the UNet alone, in place, for the one batch size that training or drawing repeats."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from chrysalis.system.errors import UserError

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SECONDS = 90  # of compiling, on two CPU cores; docs/log.md


def compile_unet(unet: nn.Module, how: bool | str, captions: bool = False, key: str = "compile") -> bool:
    """Compile in place, so that no key of the state dict changes (torch.compile(unet) would rename all of them).

    how: false, true, or one of torch.compile's modes. What is compiled lies in TORCHINDUCTOR_CACHE_DIR for later runs.
    captions: whether it reads some, whose lengths differ: one compilation is to serve them all. Returns whether it is
    compiled.
    """
    if how in (False, None):
        return False
    mode = "default" if how is True else how
    if mode not in MODES:
        raise UserError(f"{key}={how} is unknown: choose false, true, {', '.join(MODES[1:])}.")
    unet.compile(dynamic=None if captions else False, mode=None if mode == "default" else mode)
    return True


@contextmanager
def compiled_only_if(full: bool) -> Iterator[None]:
    """Inside, a compiled UNet runs as such if `full`; another batch size would cost another compilation."""
    if full:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def why_not_compiled(error: Exception) -> UserError | None:
    """What to say of an error that compiling raised, such as a missing C++ compiler; None for any other."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"compile=true cannot be used here: {lines[0][:300].rstrip('.')}. Leave it out.")
