"""What a run leaves behind: the pipeline with its card, results.json, history.json, the report, before_after.png."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from chrysalis.conditions.kinds import kinds_of
from chrysalis.data import pixels
from chrysalis.evaluation import report
from chrysalis.evaluation.plots import plot_loss_curve
from chrysalis.evaluation.validation_loss import fixed_timesteps, loss_record
from chrysalis.evaluation.verdict import describe_change, verdict
from chrysalis.models import export, lora
from chrysalis.system import hardware, hub
from chrysalis.system.errors import UserError
from chrysalis.system.files import shown, shown_program, write_text
from chrysalis.system.records import all_public
from chrysalis.system.terminal import say, stage, warn
from chrysalis.training.callbacks.base import Callback, Trainer, TrainingModule, find
from chrysalis.training.callbacks.checkpoint import Checkpoint
from chrysalis.training.callbacks.ema import applied
from chrysalis.training.callbacks.progress import Clock, Curves
from chrysalis.training.callbacks.sample_evaluation import SampleEvaluation
from chrysalis.training.callbacks.samples import Samples
from chrysalis.training.callbacks.stopping import ExitRun, Stopping
from chrysalis.training.callbacks.validation import Validation
from chrysalis.training.logger import log_image, log_results

LOGGED = ("verdict", "val_loss", "base_val_loss", "final_train_loss", "images_per_second")


class Export(Callback):
    """Exports the EMA weights of the best step at the end, generates samples with them, and writes all results.

    Args:
        settings: the flat configuration, for TensorBoard's hparams.
        started: time.time() when the command began.
        origin: what was fine-tuned; None for a model trained from scratch.
        merge: merge a LoRA into the exported weights instead of saving it beside them.
        coarser: {key: value} of the measurements that the preflight reduced, to save time.
        push_to: OWNER/NAME on the hub, where the pipeline is uploaded in the end; None for nowhere.
        private: whether that repository, if it is new, is private.
        license: what the card names as its licence; None for none.
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
        coarser: dict[str, int] | None = None,
        push_to: str | None = None,
        private: bool = False,
        license: str | None = None,
    ):
        if push_to is not None:
            hub.require_pushable(push_to, "hub.push_to")
        self.push_to, self.private, self.license = push_to, private, license
        self.run_dir, self.commands, self.settings = Path(run_dir), [command], settings
        self.started, self.origin, self.half, self.merge, self.report = started, origin, half, merge, report
        self.coarser, self.results = dict(coarser or {}), {}
        self.change = ""  # how the validation loss changed, in words
        self._seconds_before = 0.0

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:
        """Write everything, once; a run that was killed after its last step is resumed for this alone."""
        if self.results or trainer.global_step == 0 or not trainer.is_global_zero:
            return
        module.to(trainer.strategy.root_device)  # after fit it is on the CPU
        # 1. With the weights of the best step: the grid, the evaluation, the pipeline
        step, weights = find(trainer, Checkpoint).best_weights(trainer)
        with applied(module, weights):
            samples = find(trainer, Samples)
            sampled_at, after = samples.latest
            if sampled_at != step:
                after = samples.generate(trainer, module)
            grid = samples.before_and_after(trainer, after, self.origin)
            evaluation = find(trainer, SampleEvaluation).record_at(trainer, module, step)
            self.results = self._results(trainer, module, step, evaluation)
            self._export(trainer, module, grid)
        # 2. What is read by people and by the report
        history = self._history(trainer, module)
        pixels.save_png(grid, self.run_dir / "before_after.png")
        write_text(self.run_dir / "history.json", json.dumps(history, indent=1) + "\n")
        write_text(self.run_dir / "results.json", json.dumps(self.results, indent=2) + "\n")
        if self.report:
            with stage("report"):
                validation = [[row["step"], row["raw"], row["ema"]] for row in history["validation"]]
                plot_loss_curve(self.run_dir / "loss.png", history["training"], validation)
                report.write(self.run_dir / "report.html", [report.load(self.run_dir)])
        # 3. The log: an image, a table and the settings, since single values make no curves
        log_image(trainer, "samples_before_after", grid, trainer.global_step)
        rows, curves = {name: self.results[name] for name in LOGGED}, ("val/loss", "train/loss_smoothed")
        log_results(trainer, rows, all_public(self.settings), curves)
        # 4. The disk; a run that was stopped from outside may be resumed soon
        if not find(trainer, Stopping).request:
            find(trainer, Checkpoint).delete_unneeded(trainer)

    def _export(self, trainer: Trainer, module: TrainingModule, grid: torch.Tensor) -> None:
        denoiser, data = module.denoiser, trainer.datamodule
        conditions = {name: kind.describe() for name, kind in kinds_of(denoiser.conditioner).items()}
        lora_beside = lora.injected(denoiser.unet) and not self.merge
        unet: Any = denoiser.unet  # a UNet2DModel, which Denoiser does not require
        family: Any = denoiser.codec  # one of models/families.py, likewise
        needs_own_code = family.needs_own_pipeline(unet, denoiser.conditioner, self.merge)
        about = (self.change, self.origin, data.source.name, data.size, conditions, needs_own_code)
        card = export.card(self.results, *about, family.pipeline, lora_beside, self.license)
        parts = {"half": self.half, "conditioner": denoiser.conditioner, "merge": self.merge, "family": family}
        with stage("export"):
            export.save(self.run_dir / "pipeline", unet, denoiser.scheduler, card, grid, **parts)

    def finish(self, trainer: Trainer, module: TrainingModule) -> None:
        """Complete a run that had no step left, print the summary, and exit with the code that Ctrl-C requests."""
        self.on_train_end(trainer, module)
        say(self._summary(trainer, module) if self.results else "Nothing was left to train.")
        if self.push_to and self.results and not find(trainer, Stopping).request:
            self._push(self.push_to)
        if (code := find(trainer, Stopping).exit_code) and trainer.is_global_zero:
            raise ExitRun(code)

    def _push(self, hub_id: str) -> None:
        """Upload the pipeline; what goes wrong is a warning, since the run is complete without it."""
        folder = self.run_dir / "pipeline"
        try:
            with stage(f"uploading to {hub_id}"):
                page = hub.push(folder, hub_id, self.private)
        except UserError as error:
            warn(f"hub.push_to={hub_id} failed: {error}. Upload it later with: hf upload {hub_id} {shown(folder)}")
        else:
            say(f"on the hub     {page}")

    def _summary(self, trainer: Trainer, module: TrainingModule) -> str:
        r, run_dir = self.results, shown(self.run_dir)
        prompt = "".join(f" {kind.example}" for kind in kinds_of(module.denoiser.conditioner).values())
        lines = [
            f"\nvalidation loss {r['val_loss']:.5f} at step {r['best_step']}, {self.change} the base model's "
            f"{r['base_val_loss']:.5f}",
            r["verdict"],
            f"run            {run_dir}   (report.html, before_after.png, samples/, results.json)",
            f"sample         {shown_program('python')} sample.py model.pretrained={run_dir}/pipeline n=8{prompt}",
            f"on disk        {_size(self.run_dir)}; checkpoints/ ({_size(self.run_dir / 'checkpoints')}) is only for "
            "resuming and may be deleted",
        ]
        if trainer.logger is not None:
            lines.insert(-1, f"watch          {shown_program('tensorboard')} --logdir runs")
        if (loss := r.get("val_loss_condition_shuffled")) is not None:
            change = f"{loss:.5f} (difference {loss - r['val_loss']:+.5f})"
            lines.insert(1, f"validation loss with the conditions of other images {change}")
        return "\n".join(lines)

    def _results(self, trainer: Trainer, module: TrainingModule, step: int, evaluation: dict | None) -> dict:
        validation, clock, data = find(trainer, Validation), find(trainer, Clock), trainer.datamodule
        device_type = trainer.strategy.root_device.type
        speed, first = clock.images_per_second(), clock.first_step_at
        hashes, seed = validation.image_hashes, validation.seed
        at = max(s for s in validation.measured if s <= step)  # a run preempted at `step` was not measured there
        difference, last_measured = validation.difference(at), max(validation.measured)
        self.change = describe_change(difference, validation.mean(0))
        ema_losses = {measured_at: losses["ema"] for measured_at, losses in validation.measured.items()}
        found = {
            "images_per_second": speed and round(speed, 2),
            "seconds_to_first_step": first and round(first - self.started, 2),
            "peak_memory_mib": hardware.peak_memory_mib(device_type),
            "val_loss": validation.mean(at),
            "base_val_loss": validation.mean(0),
            "final_val_loss": validation.mean(last_measured),
            "final_train_loss": find(trainer, Curves).average,
            **{f"val_loss_condition_{k}": v for k, v in validation.losses_under_other_conditions(step).items()},
            "val_loss_minus_base": difference.mean,
            "val_loss_minus_base_error": difference.record()["standard_error"],
            "validation": loss_record(validation.measured[at]["ema"], hashes, module.denoiser, data.size, seed),
            "val_fraction": data.val_fraction,
            "evaluation": evaluation,
            "verdict": verdict(at, ema_losses, find(trainer, SampleEvaluation).history),
            "best_step": step,
            "measuring": {"coarser": self.coarser},
            "steps": trainer.global_step,
            "epochs": trainer.fit_loop.epoch_loop.batch_progress.total.ready // data.micro_batches(),
            "seconds": round(self._seconds_before + time.time() - self.started, 1),
            "command": self.commands[0],
            "continued_by": self.commands[1:],
            "precision": str(trainer.precision),
            "hardware": hardware.description(device_type),
            "versions": hardware.versions(),
        }
        return all_public(found)

    def _history(self, trainer: Trainer, module: TrainingModule) -> dict:
        validation = find(trainer, Validation)
        timesteps = fixed_timesteps(len(module.denoiser.noise), validation.timesteps).tolist()
        rows = []
        for step in sorted(validation.measured):
            row: dict[str, Any] = {"step": step}
            for weights in ("raw", "ema"):
                row[weights] = validation.mean(step, weights)
                row[f"{weights}_by_timestep"] = validation.measured[step][weights].mean(dim=0).tolist()
                row[f"{weights}_minus_base"] = validation.difference(step, weights=weights).record()
            rows.append(row)
        curves, evaluations = find(trainer, Curves).history, find(trainer, SampleEvaluation).history
        return {"timesteps": timesteps, "validation": rows, "training": curves, "evaluation": evaluations}

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds_before + time.time() - self.started, "commands": self.commands}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seconds_before, self.commands = state["seconds"], [*state["commands"], *self.commands]


def _size(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:,.1f} MB"
