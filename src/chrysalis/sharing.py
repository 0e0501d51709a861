"""Drawing shared out among devices and processes, launched by Lightning Fabric."""

import logging
import os

import torch

from chrysalis import hardware
from chrysalis.errors import UserError
from chrysalis.sampling.drawing import Share


def launch(accelerator: str = "auto", devices: int | str = 1, num_nodes: int = 1) -> tuple[Share, torch.device]:
    """This process's share and device. With several devices, also starts the other processes (as many on a CPU).

    Under torchrun or Slurm the processes are there already, and each takes its part.
    """
    on = hardware.accelerator(accelerator)
    if devices == 1 and num_nodes == 1 and "WORLD_SIZE" not in os.environ:
        return Share(), torch.device(on)
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        fabric = Fabric(accelerator=on, devices=devices, num_nodes=num_nodes)
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer.devices={devices} cannot be had: {str(error).strip().splitlines()[0]}") from error
    for name in ("lightning.fabric", "lightning.pytorch"):  # its banners would bury the one line that matters here
        logging.getLogger(name).setLevel(logging.WARNING)
    threads = torch.get_num_threads()
    fabric.launch()
    torch.set_num_threads(threads)  # Lightning divides them, and sums over other parts round to other pictures
    return Share(fabric.global_rank, fabric.world_size, fabric.barrier), fabric.device
