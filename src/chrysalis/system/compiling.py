"""torch.compile of the UNet alone, in place, for the one batch size that training or sampling repeats."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from chrysalis.system.errors import UserError, first_line

SECONDS = 90  # what compiling takes on two CPU cores; docs/speed.md


def compile_unet(unet: nn.Module, how: bool | str | None, captions: bool = False) -> None:
    """Compile a UNet in place, so that its state dict keeps its keys (torch.compile(unet) renames all of them).

    how: true, or one of torch.compile's modes; false or None not to compile. captions: whether it reads captions, so
    that one compilation must serve different lengths. The compiled code stays in TORCHINDUCTOR_CACHE_DIR.
    """
    if how:
        unet.compile(dynamic=None if captions else False, mode=None if how is True else how)


def compiled_only_if(full: bool) -> AbstractContextManager[None]:
    """Run a compiled UNet as such only if the batch is `full`: another batch size would cost another compilation."""
    return nullcontext() if full else torch.compiler.set_stance("force_eager")


def why_not_compiled(error: BaseException) -> UserError | None:
    """The sentence for an error that compiling raised, such as a missing C++ compiler; None for any other error."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    return UserError(f"compile=true cannot be used here: {first_line(error)}. Leave it out.")
