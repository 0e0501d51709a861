"""What makes a run fit in memory, or shorter."""

from chrysalis.system import compiling
from chrysalis.training import memory_estimate
from chrysalis.training.microbatching import SMALLER
from chrysalis.training.preflight.base_loss import BaseLoss
from chrysalis.training.preflight.plan import Plan

COMPILING_SAVES = {"cpu": 0.10, "cuda": 0.25}  # fraction of a step's time


def advice(plan: Plan, base: BaseLoss | None, cost: memory_estimate.Cost | None, free: int) -> list[str]:
    """Sentences for the summary. free: bytes of memory."""
    sentences = []
    if cost is not None and not plan.resumed and cost.max_batch_size(free) < plan.batch_size:
        sentences.append(smaller_step(plan, cost, free))
    if base is not None and not plan.compiled:
        minutes = minutes_saved(plan.forward_passes(base.conditions)[0] * base.seconds, plan.device.type)
        if minutes:
            sentences.append(f"compile=true would make the run about {duration(60 * minutes)} shorter.")
    return sentences


def minutes_saved(seconds: float, device_type: str) -> float | None:
    """Minutes that compiling saves in `seconds` of training; None where compiling costs a third of that or more."""
    saved = seconds * COMPILING_SAVES.get(device_type, 0)
    return (saved - compiling.SECONDS) / 60 if saved > 3 * compiling.SECONDS else None


def smaller_step(plan: Plan, cost: memory_estimate.Cost, free: int) -> str:
    """How a step that is too large fits in memory."""
    if cost.max_batch_size(free) == 0:
        return f"Not even one image at a time fits in memory: {SMALLER}"
    batch, pieces = plan.batch_size, plan.trainer.accumulate_grad_batches
    fits = memory_estimate.largest_batch(cost, free, batch)
    return (
        f"A step does not fit in memory. data.batch_size={fits} trainer.accumulate_grad_batches="
        f"{pieces * batch // fits} does and trains the same; so does data.batch_size=auto "
        f"data.effective_batch={batch * pieces}. model.gradient_checkpointing=true needs less for each image."
    )


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
