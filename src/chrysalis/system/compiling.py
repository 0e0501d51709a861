"""torch.compile of the UNet alone, in place, for the one batch size that training or sampling repeats."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from chrysalis.system.errors import UserError, first_line

SECONDS = 90  # of compiling, on two CPU cores; docs/log.md


def compile_unet(unet: nn.Module, how: bool | str, captions: bool = False) -> bool:
    """Compile a UNet in place, so that its state dict keeps its keys (torch.compile(unet) renames all of them).

    Args:
        how: false, true, or one of torch.compile's modes.
        captions: whether it reads captions, so that one compilation must serve different lengths.

    Returns:
        Whether it is compiled. The compiled code stays in TORCHINDUCTOR_CACHE_DIR for later runs.
    """
    if how in (False, None):
        return False
    mode = None if how is True or how == "default" else str(how)
    unet.compile(dynamic=None if captions else False, mode=mode)
    return True


@contextmanager
def compiled_only_if(full: bool) -> Iterator[None]:
    """Run a compiled UNet as such only if the batch is `full`: another batch size would cost another compilation."""
    if full:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def why_not_compiled(error: BaseException) -> UserError | None:
    """The sentence for an error that compiling raised, such as a missing C++ compiler; None for any other error."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    return UserError(f"compile=true cannot be used here: {first_line(error)}. Leave it out.")
