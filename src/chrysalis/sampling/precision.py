"""What the UNet computes in while it draws: the precision, and whether it is compiled."""

import shlex
from collections.abc import Mapping

from chrysalis.denoiser import Denoiser
from chrysalis.sampling.guidance.guided import Term
from chrysalis.system import hardware
from chrysalis.system.compiling import compile_unet
from chrysalis.system.errors import UserError
from chrysalis.system.hardware import AUTOCAST


def resolve(asked: str | int, accelerator: str = "auto") -> str:
    """One of hardware.AUTOCAST, for trainer.precision and trainer.accelerator as they were given."""
    return hardware.precision(asked, hardware.accelerator(accelerator))[0]


def recorded(record: dict, precision: str) -> dict:
    """An image's record (command/recipes.py) with the precision, in which `from=` draws it again."""
    override = [] if precision == "32-true" else [f"trainer.precision={precision}"]  # never `auto`: machines differ
    overrides = [*record["overrides"], *override]
    command = shlex.join([*shlex.split(record["command"]), *override])
    return record | {"overrides": overrides, "command": command, "precision": precision}


def apply(denoiser: Denoiser, terms: Mapping[str, Term], precision: str, compiled: bool = False) -> None:
    """Let the denoiser, and those that guidance compares it with, compute in this precision, compiled or not. In place.

    Only their UNets and conditioners do: what they return is float32, as is all that schedulers and guidance add to it.
    """
    if not isinstance(compiled, bool):
        raise UserError(f"compile={compiled} must be true or false.")
    if precision == "16-mixed":
        for name, term in terms.items():
            if term.through_unet:
                raise UserError(
                    f"guidance.{name}.at=x_t takes gradients through the UNet, most of which are 0 in fp16: "
                    "use trainer.precision=bf16-mixed or 32-true."
                )
    denoisers = [denoiser, *(term.other for term in terms.values() if hasattr(term, "other"))]
    for each in denoisers:
        each.autocast = AUTOCAST[precision]
    if compiled:
        for each in {id(each.unet): each for each in denoisers}.values():
            # none of training's modes: "reduce-overhead" lets every answer be written over the last, which multistep
            # schedulers and guidance still hold
            compile_unet(each.unet, compiled, each.reads_captions)
