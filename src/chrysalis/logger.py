"""TensorBoard, inside the run folder, or no logger."""

from lightning.pytorch.loggers import TensorBoardLogger


def tensorboard(run_dir: str) -> TensorBoardLogger:
    # Without default_hp_metric=False the first hparams would be logged with hp_metric=-1.
    return TensorBoardLogger(run_dir, name="tensorboard", version="", default_hp_metric=False)


def none() -> bool:
    """What Lightning's Trainer takes for no logger."""
    return False
