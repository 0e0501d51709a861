"""How the UNet computes while sampling: its precision, and whether it is compiled."""

from collections.abc import Mapping

from chrysalis.denoiser import Denoiser
from chrysalis.sampling.guidance.guided import Term
from chrysalis.sampling.guidance.model_pairs import Pair
from chrysalis.system.compiling import compile_unet
from chrysalis.system.errors import UserError
from chrysalis.system.hardware import AUTOCAST


def apply(denoiser: Denoiser, terms: Mapping[str, Term], precision: str, compiled: bool = False) -> None:
    """Set, in place, the precision of the denoiser and of the other models of its guidance, and compile their UNets.

    Only UNets and conditioners compute in it: predictions, schedulers and guidance stay float32.
    """
    if not isinstance(compiled, bool):  # training's modes are refused: "reduce-overhead" writes each output over the
        # last one, which multistep schedulers and guidance still hold
        raise UserError(f"compile={compiled} must be true or false.")
    if precision == "16-mixed":
        for name, term in terms.items():
            if term.through_unet:
                raise UserError(
                    f"guidance.{name}.at=x_t takes gradients through the UNet, most of which are 0 in fp16: "
                    "use trainer.precision=bf16-mixed or 32-true."
                )
    denoisers = [denoiser, *(term.other for term in terms.values() if isinstance(term, Pair))]
    for each in denoisers:
        each.autocast = AUTOCAST[precision]
    if compiled:
        for each in {id(each.unet): each for each in denoisers}.values():
            compile_unet(each.unet, compiled, each.reads_captions)
