"""TensorBoard, inside the run folder, or no logger."""

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

# TensorBoard sorts groups by name: samples, train and val come before what is looked at now and then
PERHAPS_ONCE = ("samples_evaluation/", "train/lr", "train/grad_norm", "train/images_per_second")


class Curves(TensorBoardLogger):
    """Draws no curve of a single point: what a short run measures once is in its report, and here from twice on.

    In a folder with curves, which is continued, every value is written at once.
    """

    def __init__(self, run_dir: str):
        # Without default_hp_metric=False the first hparams would be logged with hp_metric=-1.
        super().__init__(run_dir, name="tensorboard", version="", default_hp_metric=False)
        self._at_once = any(Path(self.log_dir).glob("events.*"))
        self._first: dict[str, tuple[float, int | None] | None] = {}  # None: written

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for tag, value in metrics.items():
            if tag.startswith(PERHAPS_ONCE) and not self._at_once:
                if tag not in self._first:
                    self._first[tag] = (value, step)
                    continue
                if self._first[tag] is not None:
                    super().log_metrics({tag: self._first[tag][0]}, self._first[tag][1])
                    self._first[tag] = None
            super().log_metrics({tag: value}, step)


def tensorboard(run_dir: str) -> TensorBoardLogger:
    return Curves(run_dir)


def none() -> bool:
    """What Lightning's Trainer takes for no logger."""
    return False
