"""task=evaluate: sample from a model and compare the images with a data set."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.evaluation import report
from chrysalis.evaluation.features import Network
from chrysalis.evaluation.reference import ReferenceFeatures, distinct_train_rows
from chrysalis.evaluation.validation_loss import loss_record, validation_loss
from chrysalis.models.model import Model
from chrysalis.sampling.grids import read
from chrysalis.sampling.guidance.model_pairs import denoiser_of
from chrysalis.sampling.output import OutputFolder
from chrysalis.sampling.tasks import Generate, Sampler, SampleSpec
from chrysalis.system.errors import UserError
from chrysalis.system.files import read_mapping, shown, write_text
from chrysalis.system.ranges import From1To64
from chrysalis.system.records import public
from chrysalis.system.terminal import say, warn

MAX_LOSS_IMAGES = 256  # validation images, each measured at eight timesteps


class Evaluate(Generate):
    """Generate samples as task=generate does, then write evaluation.json, nearest.png and report.html.

    data: the real images, resized to the samples' size whatever data.image_size is. n_nearest: number of samples shown
    beside the training images nearest to them.
    """

    def __init__(
        self,
        model: Model,
        features: Callable[[], Network],
        data: ImageDataModule | None = None,
        n_nearest: From1To64 = 8,
    ):
        super().__init__()
        if data is None:
            raise UserError("task=evaluate needs images to compare with: data=folder data.path=DIR, or another data=.")
        if features is None:
            raise UserError("task.features=null: choose a network, such as features=bundled.")
        self.model, self.data, self.n_nearest, self.network = model, data, n_nearest, features()

    def prepare(self, sampler: Sampler) -> None:
        self.device, self.data.size = sampler.device, sampler.size
        self.data.codec = self.model.family
        self.data.open_images()
        if len(distinct_train_rows(self.data)) < 2:
            raise UserError(f"{self.data.source.name} has too few usable images to evaluate: give three or more.")
        self._warn_of_different_split()

    def _warn_of_different_split(self) -> None:
        """Warn if the model's run used another data.val_fraction."""
        folder = Path(str(self.model.origin))
        file = (folder.parent if folder.name == "pipeline" else folder) / "results.json"
        if not file.is_file():
            return
        val_fraction = read_mapping(file, "is damaged (no val_fraction): restore or delete it.").get("val_fraction")
        if val_fraction not in (None, self.data.val_fraction):
            warn(
                f"{shown(file.parent)} was trained with data.val_fraction={val_fraction}: use the same value here if "
                "it was trained on these images, or training images are taken for validation images and vice versa."
            )

    def finish(self, sampler: Sampler, output: OutputFolder, specs: Sequence[SampleSpec]) -> list[str]:
        names, out = super().finish(sampler, output, specs), output.path
        # 1. Metrics of the samples and, where possible, the validation loss
        images = torch.stack([read(out / f"{spec.name}.png") for spec in specs])
        reference = ReferenceFeatures(self.network, self.data, self.device)
        evaluation = reference.evaluate(images)
        self.result = {**evaluation.record, "data": public(self.data.source.name)}
        if validation := self._validation():
            self.result["validation"] = validation
            n, prediction = len(validation["loss_by_image"]), validation["prediction"]
            say(f"validation loss {validation['loss']:.5f} on {n} images (predicting {prediction})")

        # 2. Files
        pixels.save_png(reference.nearest_grid(evaluation, images, self.n_nearest), out / "nearest.png")
        write_text(out / "evaluation.json", json.dumps(self.result, indent=2) + "\n")
        report.write(out / "report.html", [report.load(out)])

        # 3. Screen
        say(evaluation.summary())
        for note in evaluation.record["notes"]:
            say(note)
        return [*names, "evaluation.json", "nearest.png", "report.html"]

    def _validation(self) -> dict | None:
        """The record of the validation loss; None with too few validation images, or for a conditional model, because
        the data here need not have its conditions."""
        if self.model.conditioner is not None or len(self.data.validation_rows) < 2:
            return None
        batch = self.data.validation_batch(MAX_LOSS_IMAGES)
        denoiser, hashes = denoiser_of(self.model).to(self.device), batch.key.tolist()
        losses = validation_loss(denoiser, batch.image, hashes)
        return loss_record(losses, hashes, denoiser, self.data.size, seed=0)
