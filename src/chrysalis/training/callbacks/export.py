"""What a run leaves behind: the pipeline with its card, results.json, the curve and the before/after sheet."""

import json
import time
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard.summary import hparams

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.data import pixels
from chrysalis.evaluation import report
from chrysalis.evaluation.plots import loss_curve
from chrysalis.evaluation.validation_loss import fixed_timesteps
from chrysalis.evaluation.verdict import describe_change, verdict
from chrysalis.models import card, export, lora
from chrysalis.system import checkpoints, hardware
from chrysalis.system.files import all_public, shown, shown_program, write_text
from chrysalis.system.terminal import stage
from chrysalis.training.callbacks.best_step import Best
from chrysalis.training.callbacks.checkpoint import Checkpoint
from chrysalis.training.callbacks.clock import Clock, of
from chrysalis.training.callbacks.ema import EMA
from chrysalis.training.callbacks.evaluate import Evaluate
from chrysalis.training.callbacks.loss_curves import Curves
from chrysalis.training.callbacks.samples import Samples
from chrysalis.training.callbacks.stopping import Stopping
from chrysalis.training.callbacks.validation import Validation


def told(conditioner: Conditioner | None) -> dict[str, str]:
    """What the model can be told, with an example of each, for the card."""
    if conditioner is None:
        return {}
    embeddings, text = conditioner.embeddings, conditioner.text
    say = {"mask": "`[1, H, W]`, 1 inside and -1 outside", "image": "`[3, H, W]` in [-1, 1]"}
    if "label" in embeddings:
        say["label"] = ", ".join(embeddings["label"].names)
    if "vector" in embeddings:
        say["vector"] = f"[{', '.join(embeddings['vector'].names)}]"
    if text is not None:
        say["text"] = "captions" if text.encoder is None else f"captions of {len(text.encoder.words)} words"
    return {name: say[name] for name in conditioner.names}


class Export(Callback):
    """At the end, with the EMA weights of the best step: export, draw, and write down.

    settings: the flat configuration, for hparams. half: export the weights as float16. report: write report.html and
    loss.png. started: time.time() when the command began. merge: a LoRA into the exported weights, or beside them.
    """

    def __init__(
        self,
        run_dir: str,
        command: str,
        settings: dict,
        started: float,
        origin: str | None,
        half: bool = False,
        merge: bool = True,
        report: bool = True,
    ):
        self.run_dir, self.command, self.settings = Path(run_dir), command, settings
        self.started, self.origin, self.half, self.merge, self.report = started, origin, half, merge, report
        self.results: dict = {}
        self.change = ""  # of the validation loss, in words
        self.coarser: dict[str, int] = {}  # what was measured less than usual, to save time
        self.told: dict[str, str] = {}
        self._seconds_before, self._commands_before = 0.0, []
        self._is_logged = False

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.complete(trainer, module)

    def complete(self, trainer: Trainer, module: LightningModule) -> None:
        """Write everything, once; a run that was killed after its last step is resumed for this alone."""
        if self.results or trainer.global_step == 0 or not trainer.is_global_zero:
            return
        ema, validation, samples = of(trainer, EMA), of(trainer, Validation), of(trainer, Samples)
        module.to(trainer.strategy.root_device)  # after fit it is on the CPU
        step, averages = self._best(trainer)
        with ema.applied(module, averages):
            drawn_at, after = samples.latest
            if drawn_at != step:
                after = samples.draw(trainer, module)
            sheet = samples.before_and_after(trainer, after, self.origin)
            evaluation = of(trainer, Evaluate).at(trainer, module, step)
            self.results = self._results(trainer, validation, step, evaluation)
            made, data = module.denoiser, trainer.datamodule
            self.told = told(made.conditioner)
            own = bool(self.told) or (lora.injected(made.unet) and not self.merge)
            text = card.text(self.results, self.change, self.origin, data.source.name, data.size, self.told, own)
            parts = {"half": self.half, "conditioner": made.conditioner, "merge": self.merge}
            with stage("export"):
                export.save(self.run_dir / "pipeline", made.unet, made.scheduler, text, sheet, **parts)
        pixels.save_png(sheet, self.run_dir / "before_after.png")
        write_text(self.run_dir / "history.json", json.dumps(self._history(trainer, validation), indent=1) + "\n")
        write_text(self.run_dir / "results.json", json.dumps(self.results, indent=2) + "\n")
        if self.report:
            with stage("report"):
                loss_curve(self.run_dir / "loss.png", of(trainer, Curves).history, validation.history)
                report.write(self.run_dir / "report.html", [report.load_run(self.run_dir)])
        self._log(trainer, sheet)
        if not of(trainer, Stopping).asked:  # a run that was stopped from outside may be continued soon
            of(trainer, Checkpoint).drop_what_is_not_needed(trainer)

    def summary(self) -> str:
        """What to tell the user when the command is done."""
        if not self.results:
            return "Nothing was left to train."
        r, run_dir = self.results, shown(self.run_dir)
        asked = {"label": " label=all guidance=cfg guidance.scale=2", "text": ' text="..."', "mask": " mask=FILE.png"}
        asked = "".join(asked.get(name, "") for name in self.told)
        told = ""
        if "val_loss_condition_shuffled" in r:
            gap = r["val_loss_condition_shuffled"] - r["val_loss"]
            loss = r["val_loss_condition_shuffled"]
            told = f"with the conditions of other images {loss:.5f}, {gap:+.5f}: how much the model listens\n"
        return (
            f"\nvalidation loss {r['val_loss']:.5f} at step {r['best_step']}, {self.change} the base model's "
            f"{r['base_val_loss']:.5f}\n"
            f"{told}"
            f"{r['verdict']}\n"
            f"the run        {run_dir}   (report.html, before_after.png, samples/, results.json)\n"
            f"draw from it   {shown_program('python')} sample.py model.pretrained={run_dir}/pipeline n=8{asked}"
            + (f"\nwatch it       {shown_program('tensorboard')} --logdir runs" if self._is_logged else "")
            + f"\non disk        {_size(self.run_dir)}; checkpoints/ ({_size(self.run_dir / 'checkpoints')}) is for "
            "resuming alone and may be deleted"
        )

    def _best(self, trainer: Trainer) -> tuple[int, dict[str, torch.Tensor] | None]:
        """(step, averages) of the best step, or of the last (None: the current ones) where best.ckpt is another's."""
        file, best = self.run_dir / "checkpoints" / "best.ckpt", of(trainer, Best).step
        if best < trainer.global_step and checkpoints.intact(file):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            if checkpoint["global_step"] == best:
                return best, checkpoint["callbacks"][of(trainer, EMA).state_key]["averages"]
        return trainer.global_step, None

    def _results(self, trainer: Trainer, validation: Validation, step: int, evaluation: dict | None) -> dict:
        on = trainer.strategy.root_device.type
        clock = of(trainer, Clock)
        speed, first = clock.images_per_second(), clock.first_step_at
        at = max(s for s in validation.measured if s <= step)  # a run that left in its last step was not measured there
        difference = validation.difference(at)
        self.change = describe_change(difference, validation.history[0][1])
        found = {
            "images_per_second": speed and round(speed, 2),
            "seconds_to_first_step": first and round(first - self.started, 2),
            "peak_memory_mib": hardware.peak_memory_mib(on),
            "val_loss": next(row[2] for row in validation.history if row[0] == at),
            "base_val_loss": validation.history[0][1],
            "final_val_loss": validation.history[-1][2],
            "final_train_loss": of(trainer, Curves).latest,
            **{f"val_loss_condition_{name}": loss for name, loss in validation.told_at(step).items()},
            "val_loss_minus_base": difference.mean,
            "val_loss_minus_base_error": difference.record()["standard_error"],
            "validation": validation.record(trainer, at),
            "val_fraction": trainer.datamodule.val_fraction,
            "evaluation": evaluation,
            "verdict": verdict(at, validation.history[-1][0], validation, of(trainer, Evaluate).history),
            "best_step": step,
            "measuring": {"coarser": self.coarser},
            "steps": trainer.global_step,
            "passes": trainer.fit_loop.epoch_loop.batch_progress.total.ready // trainer.datamodule.micro_batches(),
            "seconds": round(self._seconds_before + time.time() - self.started, 1),
            "command": (self._commands_before or [self.command])[0],
            "continued_by": [*self._commands_before, self.command][1:],
            "precision": str(trainer.precision),
            "hardware": hardware.description(on),
            "versions": hardware.versions(),
        }
        return all_public(found)

    def _history(self, trainer: Trainer, validation: Validation) -> dict:
        """What was measured on the way, for the report."""
        timesteps = fixed_timesteps(len(trainer.lightning_module.denoiser.noise), validation.bins).tolist()
        rows = []
        for step, losses in sorted(validation.measured.items()):
            row = {"step": step}
            for weights in ("raw", "ema"):
                row[weights] = losses[weights].mean().item()
                row[f"{weights}_by_timestep"] = losses[weights].mean(dim=0).tolist()
                row[f"{weights}_minus_base"] = validation.difference(step, weights=weights).record()
            rows.append(row)
        return {
            "timesteps": timesteps,
            "validation": rows,
            "training": of(trainer, Curves).history,
            "evaluation": of(trainer, Evaluate).history,
        }

    def _log(self, trainer: Trainer, sheet: torch.Tensor) -> None:
        """What is known once: no curve, but settings, a table and a sheet."""
        self._is_logged = trainer.logger is not None
        if not self._is_logged:
            return
        trainer.logger.experiment.add_image("samples_before_after", sheet, trainer.global_step)
        names = ("verdict", "val_loss", "base_val_loss", "final_train_loss", "images_per_second")
        rows = "\n".join(f"| {name} | {self.results[name]} |" for name in names)
        trainer.logger.experiment.add_text("results", f"| | |\n|---|---|\n{rows}", trainer.global_step)
        # as log_hyperparams, which would also write the figures as curves of a single point; these curves there are
        curves = dict.fromkeys(("val/loss", "train/loss_smoothed"))
        for summary in hparams(all_public(self.settings), curves):
            trainer.logger.experiment.file_writer.add_summary(summary)
        trainer.logger.save()

    def state_dict(self) -> dict:
        seconds = self._seconds_before + time.time() - self.started
        return {"seconds": seconds, "commands": [*self._commands_before, self.command]}

    def load_state_dict(self, state: dict) -> None:
        self._seconds_before, self._commands_before = state["seconds"], list(state["commands"])


def _size(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:,.1f} MB"
