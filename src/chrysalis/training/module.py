"""The LightningModule: steps and optimizers, no mathematics."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from lightning import LightningModule

from chrysalis.data.batch import Batch
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.models.freezing import is_new
from chrysalis.system import memory
from chrysalis.system.compiling import compiled_only_if
from chrysalis.system.errors import UserError
from chrysalis.system.terminal import warn

SMALLER = "use a smaller data.image_size or model, model.gradient_checkpointing=true or optimizer=adamw8bit."


@dataclass
class Seen:
    """A micro-batch, and of each of its parts the timesteps and the losses, [B] each."""

    batch: Batch
    t: list[torch.Tensor] = field(default_factory=list)
    per_sample: list[torch.Tensor] = field(default_factory=list)

    def forget(self) -> None:
        self.t.clear()
        self.per_sample.clear()


class FineTuning(LightningModule):
    """optimizer: params -> Optimizer. lr_schedule: (optimizer, total_steps) -> LRScheduler.

    new_lr: how many times the learning rate is that of the weights which a condition brought: they begin at zero.
    """

    def __init__(self, denoiser: Denoiser, optimizer: Callable, lr_schedule: Callable, new_lr: float = 1.0):
        super().__init__()
        if not isinstance(new_lr, int | float) or not 0 < new_lr < float("inf"):
            raise UserError(f"condition.new_lr={new_lr} must be a positive number.")
        self.new_lr = new_lr
        self.denoiser = denoiser
        self.make_optimizer, self.make_lr_schedule = optimizer, lr_schedule
        # a trial, so that a bad value is refused before a run folder is begun
        trial = optimizer([torch.nn.Parameter(torch.zeros(1))])
        lr_schedule(trial, total_steps=1)
        self.optimizer_bytes = getattr(trial, "bytes_per_weight", 8.0)  # of its state
        self.grad_norm: torch.Tensor | None = None  # of the last optimizer step, before clipping
        self.learning_rate = 0.0  # of the last optimizer step
        self.window: list[Seen] = []  # of the optimizer step that is being made
        self.parts = 1  # in how many each micro-batch is taken; more after running out of memory

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.denoiser.named_parameters() if p.requires_grad]

    def on_fit_start(self) -> None:
        self.train()  # from_pretrained returns eval mode, and Lightning leaves modes as they are

    def on_train_start(self) -> None:
        """The optimizer's state as the weights lie in memory now, which may be another layout than it was saved in.

        Among several processes, of which each has fewer pictures, micro-batches are whole again.
        """
        if self.trainer.world_size > 1:
            self.parts = 1
        for p, state in self.optimizers(use_pl_optimizer=False).state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == p.shape and value.stride() != p.stride():
                    state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Dropout is a pure function of (seed, micro-batch, process), so that a resumed run continues exactly."""
        key = seeds.key(self.trainer.datamodule.seed, "dropout", self._micro_batch(), self.global_rank)
        # torch.manual_seed also seeds GPUs; where none is in use, it formats a stack trace each time for later
        (torch.default_generator if self.device.type == "cpu" else torch).manual_seed(key)

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, torch.Tensor]:
        """The batch's share of its window's mean, so that a short last window is averaged over what it holds; as the
        objective weights it, which is trained on, and unweighted, which is the scale of the validation loss.

        Lightning divides by accumulate_grad_batches and averages over processes; both are undone here.
        """
        self.window.append(Seen(batch))
        share = self._joint_share() if self.trainer.world_size > 1 else self._own_share()
        undo = self.trainer.accumulate_grad_batches * self.trainer.world_size
        unweighted = torch.cat(self.window[-1].per_sample).sum() / batch.window
        shares = {"share": unweighted, "weighted_share": share.detach()}
        return {"loss": share * undo, **{name: s * self.trainer.world_size for name, s in shares.items()}}

    def _own_share(self) -> torch.Tensor:
        """Both passes at once: no one else holds the graph, so that memory is free again when one of them fails."""
        try:
            return self._in_parts(self.window[-1])
        except RuntimeError as error:
            self._only_out_of_memory(error)
        return self._repeated_in_parts()  # not among the above: what failed is held until its exception is gone

    def _joint_share(self) -> torch.Tensor:
        """The forward pass; the processes' gradients are averaged as Lightning calls the backward pass."""
        try:
            return self._share(self.window[-1], self.window[-1].batch)
        except RuntimeError as error:
            raise self._of_one_process(error) from None

    def backward(self, loss: torch.Tensor, *given, **named) -> None:
        try:
            loss.backward(*given, **named)
        except RuntimeError as error:
            raise self._of_one_process(error) from None

    def _of_one_process(self, error: RuntimeError) -> UserError:
        self._only_out_of_memory(error)
        return UserError(f"Out of memory on process {self.global_rank}: {SMALLER}")

    def optimizer_step(self, *given, **named) -> None:
        """Gradients go with the step: Lightning keeps them through the next forward pass, which then runs slower."""
        try:
            super().optimizer_step(*given, **named)
        except RuntimeError as error:
            self._only_out_of_memory(error)
            raise UserError(f"The optimizer's own memory does not fit: {SMALLER}") from None
        self.optimizers(use_pl_optimizer=False).zero_grad()
        self.window.clear()

    def optimizer_zero_grad(self, *given, **named) -> None:
        """Done with the step; Lightning calls it between the passes, where a micro-batch in parts has gradients."""

    def _micro_batch(self) -> int:
        """The number of the current micro-batch in the whole run."""
        return self.trainer.fit_loop.epoch_loop.total_batch_idx

    def _share(self, seen: Seen, batch: Batch) -> torch.Tensor:
        """The loss of a micro-batch, or of a part of it, as its share in the mean over the window."""
        with compiled_only_if(len(batch) * self.parts == self.trainer.datamodule.batch_size):
            loss = self.denoiser.loss(batch)
        seen.t.append(loss.t)
        seen.per_sample.append(loss.per_sample.detach())
        return loss.weighted.sum() / batch.window

    def _in_parts(self, seen: Seen) -> torch.Tensor:
        """Both passes of a micro-batch, part by part; returns its share, with nothing left to differentiate."""
        seen.forget()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        total = torch.zeros((), device=self.device)
        for part in seen.batch.parts(self.parts):
            with self.trainer.precision_plugin.forward_context():
                share = self._share(seen, part)
            with torch.autocast(self.device.type, enabled=False):
                (share if scaler is None else scaler.scale(share)).backward()
            total += share.detach()
        return total.requires_grad_()

    def _repeated_in_parts(self) -> torch.Tensor:
        """After running out of memory: the window so far again, in parts so small that they fit, now and from here on.

        The optimizer sees the same pictures; the sum is rounded differently.
        """
        while self.parts < max(len(seen.batch) for seen in self.window):
            self.parts *= 2
            self.zero_grad()
            memory.release(self.device)
            try:
                shares = [self._in_parts(seen) for seen in self.window]
            except RuntimeError as error:
                self._only_out_of_memory(error)
                continue
            warn(
                f"step {self.trainer.global_step + 1}: out of memory. From here on each micro-batch is taken in "
                f"{self.parts} parts; the optimizer sees the same pictures."
            )
            return shares[-1]
        raise UserError(f"A single picture at a time does not fit into memory: {SMALLER}")

    def _only_out_of_memory(self, error: RuntimeError) -> None:
        """Let pass what ran out of memory, raise anything else."""
        if not memory.ran_out(error):
            raise error

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["parts"] = self.parts

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.parts = checkpoint.get("parts", 1)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip as trainer.gradient_clip_* say (null or 0: not at all); keep the norm from before for the log."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # under float16 a fused optimizer would do it in its step, after clipping
        self.learning_rate = optimizer.param_groups[0]["lr"]
        by_norm = gradient_clip_val and gradient_clip_algorithm != "value"
        self.grad_norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        # what clip_grad_norm_ does, but for multiplying by 1 where that is known without waiting for a GPU
        small = by_norm and self.grad_norm.device.type == "cpu" and self.grad_norm + 1e-6 <= gradient_clip_val
        if by_norm and not small:
            torch.nn.utils.clip_grads_with_norm_(params, gradient_clip_val, self.grad_norm)
        elif gradient_clip_val and not by_norm:
            torch.nn.utils.clip_grad_value_(params, gradient_clip_val)
        for callback in self.trainer.callbacks:
            if hasattr(callback, "on_gradients_measured"):
                callback.on_gradients_measured(self.trainer, self, optimizer)

    def configure_optimizers(self) -> dict:
        own = [p for name, p in self.trainable() if not is_new(name)]
        new = [p for name, p in self.trainable() if is_new(name)]
        optimizer = self.make_optimizer([{"params": group} for group in (own, new) if group])
        if new:
            optimizer.param_groups[-1]["lr"] *= self.new_lr
        schedule = self.make_lr_schedule(optimizer, total_steps=self.trainer.estimated_stepping_batches)
        # frequency 1: Lightning counts it in batches, and skips those that do not step
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1}}
