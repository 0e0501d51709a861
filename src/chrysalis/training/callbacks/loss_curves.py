"""Training loss, learning rate, gradient norm and images/s, once every optimizer step or so."""

import math

import torch
from lightning import Callback, LightningModule, Trainer
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from chrysalis.diffusion.weighting import Uniform
from chrysalis.training.callbacks.clock import Clock, of


class Curves(Callback):
    """Logs the mean loss of each optimizer step's whole window and its moving average, every log_every_n_steps.

    It is the unweighted loss, which the validation loss is too. Where the objective weights timesteps, what is
    minimized is logged beside it as train/loss_weighted.

    Nothing is read back from the device between two such steps.
    """

    def __init__(self, smoothing: float = 0.98):
        self.smoothing = smoothing
        self.history: list[list[float]] = []  # [step, loss, moving average]
        self._window: torch.Tensor | None = None  # [2]: of the optimizer step that is being made, see _pending
        self._pending: list[torch.Tensor] = []  # [2] of each step since the last reading: unweighted, weighted
        self._average: float | None = None
        self._seen_step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seen_step = trainer.global_step
        if trainer.global_step and trainer.logger is not None and trainer.is_global_zero:
            # TensorBoard leaves out what a killed run logged after the checkpoint that is continued
            began = SessionLog(status=SessionLog.START)
            trainer.logger.experiment.file_writer.add_event(Event(session_log=began), trainer.global_step + 1)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_index) -> None:
        share = torch.stack([outputs["share"], outputs["weighted_share"]])
        self._window = share if self._window is None else self._window + share
        if trainer.global_step == self._seen_step:
            return
        self._seen_step = step = trainer.global_step
        self._pending.append(self._window)
        self._window = None
        if step % trainer.log_every_n_steps == 0 or step == 1:
            self._read(trainer, module, step)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._pending:
            self._read(trainer, module, trainer.global_step)

    def _read(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        losses, weighted = torch.stack([loss.to(module.device) for loss in self._pending]).T.tolist()
        self._pending = []
        for at, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss):  # of an update that was left out
                continue
            self._average = (
                loss if self._average is None else self._average + (1 - self._keep(at)) * (loss - self._average)
            )
        if self._average is None:
            return
        self.history.append([step, losses[-1], self._average])
        values = {
            "train/loss": losses[-1],
            "train/loss_smoothed": self._average,
            "train/lr": module.learning_rate,
            "train/grad_norm": module.grad_norm.item() if module.grad_norm is not None else float("nan"),
        }
        if not isinstance(module.denoiser.weighting, Uniform):
            values["train/loss_weighted"] = weighted[-1]
        if speed := of(trainer, Clock).images_per_second():
            values["train/images_per_second"] = speed
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=step)

    def _keep(self, step: int) -> float:
        return min(self.smoothing, (1 + step) / (10 + step))

    @property
    def latest(self) -> float | None:
        """The moving average of the loss."""
        return self._average

    def state_dict(self) -> dict:
        return {"history": self.history, "average": self._average, "pending": self._pending}

    def load_state_dict(self, state: dict) -> None:
        self.history, self._average = list(state["history"]), state["average"]
        # of an earlier version there is one number a step, the weighted one
        self._pending = [loss if loss.ndim else loss.repeat(2) for loss in state.get("pending", ())]
