"""The preflight in its order: check, measure the base model, keep to the budget, print."""

import torch

from chrysalis.system import memory
from chrysalis.system.terminal import console, is_main_process, say
from chrysalis.training.batch_size import step_cost
from chrysalis.training.preflight.base_loss import measure
from chrysalis.training.preflight.plan import Plan
from chrysalis.training.preflight.table import table

# Estimating the memory of a step takes a second; above these sizes it is worth it on a CPU too
LARGE_MODEL, LARGE_MICRO_BATCH = 30e6, 2**18  # parameters; pixels


def check(plan: Plan, preflight: bool | str) -> bool:
    """Check a run before it starts, make its measurements keep to the budget, and print what it will do.

    preflight: true: print a summary; `only`: print it and return False; false: print the model and the data alone.
    Raises UserError if what is configured cannot be measured or, with a summary, if the disk is too full for the run.
    """
    # 1. What would otherwise fail at the first evaluation
    plan.prepare()
    plan.trainer.callbacks.append(plan)
    if preflight is False:
        for line in filter(None, (plan.size_note, plan.model.description(), plan.data.description())):
            say(line)
    elif is_main_process():
        # 2. Memory, and the base model's loss and speed, without changing the run's random state
        with torch.random.fork_rng(devices=[plan.device] if plan.device.type == "cuda" else []):
            (height, width), weights = plan.data.size, sum(p.numel() for p in plan.module.parameters())
            large = weights > LARGE_MODEL or plan.batch_size * height * width > LARGE_MICRO_BATCH
            is_estimated = preflight == "only" or plan.device.type != "cpu" or large
            cost = step_cost(plan.module, plan.trainer, plan.data.size) if is_estimated else None
            free = memory.free(plan.device)
            base = None if plan.resumed else measure(plan)
        # 3. How much the run measures
        if base is not None:
            plan.keep_to_budget(base.seconds_per_pass, base.conditions)
        # 4. The summary, and room on the disk
        console.print(table(plan, base, cost, free))
        plan.require_room()
    return preflight != "only"
