"""Processes that torchrun or srun has started: all of them write into one folder."""

import os
import time
from datetime import timedelta

from chrysalis.command.quick_start import keep_compiled
from chrysalis.system.errors import UserError

FOLDER = {"train": ("name", ""), "sample": ("out", "samples/")}  # the key, and what its default begins with
WAIT = timedelta(minutes=10)  # until the first process has begun

_stores: list = []  # kept while the process lives: where torchrun lends no store, the first process holds it for all


def agree(arguments: list[str], config_name: str) -> list[str]:
    """The arguments, with the name that the first process gives the folder where none was typed.

    Its default is the time, which the processes read one after the other.
    """
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ  # Lightning's own have no RANK
    if several and any(a in ("-m", "--multirun") for a in arguments):
        raise UserError("A sweep starts its processes itself: leave torchrun out and give trainer.devices=NUMBER.")
    key, begins = FOLDER[config_name]
    if any(a.startswith((f"{key}=", "hydra.run.dir=")) for a in arguments):
        return arguments
    if several and {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return [*arguments, f"{key}={begins}{_first_ones(time.strftime('%Y-%m-%d_%H-%M-%S'))}"]
    job = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if job and (config_name == "train" or int(os.environ.get("SLURM_NTASKS") or 1) > 1):
        step = "-".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return [*arguments, f"{key}={begins}slurm-{step}"]
    return arguments


def _first_ones(value: str) -> str:
    """What the process of rank 0 passed, by way of the store at which they meet for training too."""
    keep_compiled()
    import torch.distributed as dist

    store, rank, _ = next(dist.rendezvous("env://", timeout=WAIT))
    _stores.append(store)
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun starts all anew when one has failed
    store = dist.PrefixStore(f"chrysalis/{again}", store)
    if rank == 0:
        store.set("folder", value)
    return store.get("folder").decode()
