"""TensorBoard inside the run folder, or no logger. No other file of the project names TensorBoard's functions."""

from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore[missing-module-attribute] - made at run time
from torch.utils.tensorboard.summary import hparams

# Tags that a short run logs once. TensorBoard sorts groups by name, so that samples, train and val come first.
OFTEN_LOGGED_ONCE = ("samples_evaluation/", "train/lr", "train/grad_norm", "train/images_per_second")


class RunLogger(TensorBoardLogger):
    """Logs to the run folder, without the tags of OFTEN_LOGGED_ONCE that get a single value.

    The first value of such a tag is written together with the second one. In a resumed run every value is written
    immediately.
    """

    def __init__(self, run_dir: str):
        # without default_hp_metric=False the first hparams would be logged with hp_metric=-1
        super().__init__(run_dir, name="tensorboard", version="", default_hp_metric=False)
        self._is_resumed = any(Path(self.log_dir).glob("events.*"))
        self._first_values: dict[str, tuple[float, int | None] | None] = {}  # None once written

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # pyrefly: ignore[bad-override] - the parent's type also allows tensors, which nothing here logs
        for tag, value in metrics.items():
            if tag.startswith(OFTEN_LOGGED_ONCE) and not self._is_resumed:
                if tag not in self._first_values:
                    self._first_values[tag] = (value, step)
                    continue
                if (first := self._first_values[tag]) is not None:
                    super().log_metrics({tag: first[0]}, first[1])
                    self._first_values[tag] = None
            super().log_metrics({tag: value}, step)


def none() -> bool:
    """The value that Lightning's Trainer takes for no logger."""
    return False


def log_metrics(trainer: Trainer, values: dict[str, float], step: int) -> None:
    """Log scalars, if the run has a logger."""
    if trainer.logger is not None:
        trainer.logger.log_metrics(values, step=step)


def log_image(trainer: Trainer, tag: str, image: torch.Tensor, step: int) -> None:
    """Log an image uint8 [3, h, w], if the run logs to TensorBoard."""
    if isinstance(trainer.logger, TensorBoardLogger):
        trainer.logger.experiment.add_image(tag, image, step)


def log_results(trainer: Trainer, rows: dict[str, object], settings: dict, curves: tuple[str, ...]) -> None:
    """Log a table of results, and the settings for the hparams tab beside curves that exist already.

    `log_hyperparams` would also write each figure as a curve of a single point.
    """
    if isinstance(trainer.logger, TensorBoardLogger):
        lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        trainer.logger.experiment.add_text("results", f"| | |\n|---|---|\n{lines}", trainer.global_step)
        for summary in hparams(settings, dict.fromkeys(curves)):
            trainer.logger.experiment.file_writer.add_summary(summary)
        trainer.logger.save()


def hide_after(trainer: Trainer, step: int) -> None:
    """Let TensorBoard leave out what a killed run logged after the checkpoint of `step`."""
    if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
        start = SessionLog(status=SessionLog.START)
        trainer.logger.experiment.file_writer.add_event(Event(session_log=start), step + 1)
