"""Lightning's Trainer with the defaults of this project: resolved precision, atomic checkpoints, no progress bar."""

import logging
import warnings
from collections.abc import Sequence

from lightning import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from chrysalis.system import hardware
from chrysalis.system.errors import UserError, first_line
from chrysalis.system.ranges import Processes
from chrysalis.system.terminal import say
from chrysalis.training.callbacks.base import Trainer
from chrysalis.training.callbacks.checkpoint import CompleteCheckpoints


def make_trainer(
    callbacks: Sequence[Callback],
    logger: Logger | bool,
    precision: str | int = "auto",
    accelerator: str = "auto",
    devices: Processes | str | list[int] = 1,
    max_time=None,
    **lightning,
) -> Trainer:
    """Make the trainer of a run; raises UserError if Lightning refuses a value.

    max_time is not passed on: callbacks.stopping reads it. `lightning` is any other argument of lightning.Trainer.
    """
    # Lightning's notices (devices it did not use, tips) would hide the few lines that matter here
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    not_resumable = "your dataloader is not resumable"  # ours counts micro-batches, see data/loaders.py
    needless = ("LeafSpec.*is deprecated", "does not have many workers", "smaller than the logging interval")
    for message in (*needless, not_resumable):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    device_type = hardware.accelerator(accelerator)
    hardware.require_processes(devices, device_type)
    chosen, why = hardware.precision(precision, device_type)
    say(f"on {hardware.description(device_type)}, precision {chosen} ({why})")
    try:
        return Trainer(
            callbacks=list(callbacks),
            logger=logger,
            precision=chosen,  # pyrefly: ignore[bad-argument-type] - hardware.precision returns one of Lightning's names
            accelerator=accelerator,
            devices=devices,
            plugins=[CompleteCheckpoints()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            **lightning,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"trainer.* cannot be used: {first_line(error)}. Correct that key, or leave it out.") from error
