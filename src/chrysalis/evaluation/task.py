"""task=evaluate: draw with any model and hold the images against any data; or put runs side by side."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from chrysalis.data import pixels
from chrysalis.data.datamodule import ImageDataModule
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion.objective import choose
from chrysalis.evaluation import report, validation_record
from chrysalis.evaluation.features import Network
from chrysalis.evaluation.nearest_panel import panel
from chrysalis.evaluation.reference import Reference, distinct
from chrysalis.evaluation.validation_loss import validation_loss
from chrysalis.models.model import Model
from chrysalis.sampling.grids import read
from chrysalis.sampling.tasks import Generate, Sampler, SampleSpec
from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.files import read_mapping, shown, write_text
from chrysalis.system.public import public
from chrysalis.system.terminal import say, warn

MOST = 256  # validation images, at eight timesteps each


class Evaluate(Generate):
    """As task=generate, then evaluation.json, nearest.png and report.html.

    data: what the images are held against, at the samples' size whatever data.image_size says. panel: how
    many are shown beside their nearest training images. compare: folders, in place of drawing, see `compare`.
    """

    def __init__(
        self,
        model: Model,
        features: Callable[[], Network],
        data: ImageDataModule | None = None,
        panel: int = 8,
        compare: Sequence[str] | None = None,
    ):
        super().__init__()
        if data is None:
            raise UserError("task=evaluate needs images to compare with: data=folder data.path=DIR, or another data=.")
        require_whole("task.panel", panel)
        if not callable(features):
            raise UserError("task.features=null: choose a network with features=.")
        self.model, self.data, self.panel, self.network = model, data, panel, features()

    def prepare(self, sampler: Sampler) -> None:
        self.data.size = sampler.size
        self.data.open_images()
        if len(distinct(self.data)) < 2:
            raise UserError(
                f"{self.data.source.name} has too few usable images to evaluate against: give three or more."
            )
        if told := self._parted_otherwise():
            warn(told)

    def _parted_otherwise(self) -> str | None:
        """A warning, if a run's model is looked at that held out another share of its images."""
        if self.model.origin is None:
            return None
        folder = Path(self.model.origin)
        file = (folder.parent if folder.name == "pipeline" else folder) / "results.json"
        if not file.is_file():
            return None
        was = read_mapping(file, "is damaged: what the run held out is not known.").get("val_fraction")
        if was in (None, self.data.val_fraction):
            return None
        return (
            f"{shown(file.parent)} held out data.val_fraction={was} of its images: give that here too if these "
            "are the same ones, or some that it learned from count as held out, or the other way round."
        )

    def conclude(self, out: Path, specs: Sequence[SampleSpec]) -> list[str]:
        images = torch.stack([read(out / f"{p.name}.png") for p in specs])
        reference = Reference(self.network, self.data, next(self.model.unet.parameters()).device)
        evaluation = reference.hold(images)
        self.notes = {**evaluation.record(), "data": public(self.data.source.name)}
        if measured := self.measured():
            self.notes["validation"] = measured
            predicts = f"the model predicts {measured['prediction']}"
            say(f"validation loss {measured['loss']:.5f} on {len(measured['images'])} images ({predicts})")
        pixels.save_png(panel(evaluation, reference, images, self.panel), out / "nearest.png")
        write_text(out / "evaluation.json", json.dumps(self.notes, indent=2) + "\n")
        report.write(out / "report.html", [report.evaluated(out, self.notes)])
        say(evaluation.sentence())
        for why in evaluation.why:
            say(why)
        return ["evaluation.json", "nearest.png", "report.html"]

    def measured(self) -> dict | None:
        """As evaluation/validation_record.py has it; None without validation images, or of a model that is to be told
        something: only its own run knows what."""
        if self.model.conditioner is not None or len(self.data.validation_rows) < 2:
            return None
        batch = self.data.validation_batch(MOST)
        denoiser = Denoiser(self.model.unet, self.model.scheduler, choose(self.model.prediction)).eval()
        denoiser.to(next(self.model.unet.parameters()).device)
        contents = batch.key.tolist()
        losses = validation_loss(denoiser, batch.image, contents)
        return validation_record.record(losses, contents, denoiser, self.data.size, seed=0)


def compare(folders: str | Sequence[str], out: Path) -> None:
    """One table, comparison.html in `out` and on screen, of runs and of folders that task=evaluate made."""
    folders = [folders] if isinstance(folders, str) else list(map(str, folders))
    found = [report.found(Path(folder)) for folder in folders]
    if len(found) < 2:
        raise UserError("task.compare needs two folders or more, such as [runs/a,runs/b].")
    parents = {Path(folder).resolve().parent for folder in folders}
    if len(parents) == 1:
        found = [replace(subject, name=Path(folder).name) for subject, folder in zip(found, folders, strict=True)]
    found = distinctly_named(found)
    report.write(out / "comparison.html", found)
    report.show(found)
    say(f"the same with curves and images: {shown(out / 'comparison.html')}")


def distinctly_named(subjects: Sequence[report.Subject]) -> list[report.Subject]:
    """The same, but for a number behind a name that an earlier one has: tables and charts tell them apart by name."""
    names = [subject.name for subject in subjects]
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return [replace(s, name=f"{s.name} ({n + 1})") if n else s for s, n in zip(subjects, before, strict=True)]
