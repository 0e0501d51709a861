"""Drawing shared out among devices and processes, launched by Lightning Fabric."""

import logging
import os
from datetime import timedelta

import torch

from chrysalis.sampling.generation import Share
from chrysalis.system import hardware
from chrysalis.system.errors import UserError, require_whole


def launch(
    accelerator: str = "auto", devices: int | str = 1, num_nodes: int = 1, precision: str = "32-true", **other
) -> tuple[Share, torch.device]:
    """This process's share and device. With several devices, also starts the other processes (as many on a CPU).

    Under torchrun the processes are there already, and each takes its part. precision: see sampling/precision.py.
    """
    for key in other:
        raise UserError(
            f"trainer.{key} is not a setting of sample.py: it has accelerator, devices, num_nodes, precision."
        )
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    if devices != "auto":
        require_whole("trainer.devices", devices)
    require_whole("trainer.num_nodes", num_nodes)
    on = hardware.accelerator(accelerator)
    hardware.require_processes(devices, on)
    if devices == 1 and num_nodes == 1:
        return Share(), torch.device(on)
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):  # its banners would bury the one line that matters here
        logging.getLogger(name).setLevel(logging.WARNING)
    threads = torch.get_num_threads()
    try:
        # the processes only meet at the end, which one that had more left to draw reaches hours later
        strategy = DDPStrategy(timeout=timedelta(days=30))
        fabric = Fabric(accelerator=on, devices=devices, num_nodes=num_nodes, strategy=strategy)
        fabric.launch()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"trainer.devices={devices} cannot be had: {str(error).strip().splitlines()[0]}") from error
    torch.set_num_threads(threads)  # Lightning divides them, and sums over other parts round to other images
    return Share(fabric.global_rank, fabric.world_size, _gathered), fabric.device


def _gathered(mine: str | None) -> list[str | None]:
    everyones = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyones, mine)
    return everyones
