"""Processes that torchrun or srun started: all of them must write into one folder."""

import os
import time
from datetime import timedelta

from chrysalis.command.arguments import is_sweep
from chrysalis.command.quick_start import keep_compiled
from chrysalis.system.errors import UserError

FOLDER = {"train": ("name", ""), "sample": ("out", "samples/")}  # the key of the folder, and how its default begins
WAIT = timedelta(minutes=10)  # until the first process has begun

_stores: list[object] = []  # kept open: without a store of torchrun's, the first process serves it to all


def with_common_folder(arguments: list[str], config_name: str) -> list[str]:
    """Add the first process's default for the folder to the arguments, unless a folder is given.

    The default is the time, which each process reads at a different moment.
    """
    # Lightning's own processes have no RANK
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ
    if several and is_sweep(arguments):
        raise UserError("A sweep starts its processes itself: leave torchrun out and give trainer.devices=NUMBER.")
    key, begins = FOLDER[config_name]
    if any(a.startswith((f"{key}=", "hydra.run.dir=")) for a in arguments):
        return arguments
    if several and {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return [*arguments, f"{key}={begins}{_of_first_process(time.strftime('%Y-%m-%d_%H-%M-%S'))}"]
    job = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if job and (config_name == "train" or int(os.environ.get("SLURM_NTASKS") or 1) > 1):
        step = "-".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return [*arguments, f"{key}={begins}slurm-{step}"]
    return arguments


def _of_first_process(value: str) -> str:
    """The value that the process of rank 0 passes, through the store that training uses to connect them too."""
    keep_compiled()
    import torch.distributed as dist

    store, rank, _ = next(dist.rendezvous("env://", timeout=WAIT))
    _stores.append(store)
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun restarts all when one has failed
    store = dist.PrefixStore(f"chrysalis/{again}", store)
    if rank == 0:
        store.set("folder", value)
    return store.get("folder").decode()
