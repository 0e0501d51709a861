"""Sampling on several devices: one process for each, launched by Lightning Fabric, and its share of the batches."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch

from chrysalis.system import hardware
from chrysalis.system.errors import UserError, first_line
from chrysalis.system.ranges import From1To10000, Processes


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that sample together: it generates every world_size-th batch, beginning at `rank`.

    gather: waits for all processes and returns what each of them has handed in, by rank.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[object], list] = lambda own: [own]


def launch(
    accelerator: str = "auto",
    devices: Processes | Literal["auto"] = 1,
    num_nodes: From1To10000 = 1,
    precision: str | int = "32-true",
) -> tuple[ProcessGroup, torch.device]:
    """Start the other processes, if there is more than one device, and return this one's group and device.

    Under torchrun the processes are running already. On a CPU, `devices` is the number of processes. precision: see
    sampling/precision.py.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    kind = hardware.accelerator(accelerator)
    hardware.require_processes(devices, kind)
    hardware.keep_memory(kind)
    if devices == 1 and num_nodes == 1:
        return ProcessGroup(), torch.device(kind)

    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):  # their banners would hide the one line that matters
        logging.getLogger(name).setLevel(logging.WARNING)
    threads = torch.get_num_threads()
    try:
        # the processes wait for each other at the end, which the slowest may reach hours after the first
        strategy = DDPStrategy(timeout=timedelta(days=30))
        fabric = Fabric(accelerator=kind, devices=devices, num_nodes=num_nodes, strategy=strategy)
        fabric.launch()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"trainer.devices={devices} cannot be used: {first_line(error)}. Use auto or 1.") from error
    torch.set_num_threads(threads)  # Lightning divides them, but another number of threads rounds differently
    return ProcessGroup(fabric.global_rank, fabric.world_size, _gather), fabric.device


def _gather(own: object) -> list:
    gathered: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered
