"""The layout of a diffusers folder: where its UNet, its scheduler and its weights are, and what its JSON files say."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from chrysalis.models import checks
from chrysalis.system.errors import UserError

AUTOENCODERS = ("vae", "vqvae", "movq")
LATENT_PIPELINES = ("LDM", "Latent", "StableDiffusion")
WEIGHTS = "diffusion_pytorch_model.safetensors"
WEIGHTS_FILE = re.compile(r"diffusion_pytorch_model(?:\.([\w-]+?))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.(safetensors|bin)")


@dataclass(frozen=True)
class Weights:
    """The weight files of a UNet or an autoencoder."""

    names: tuple[str, ...]  # one file, or its shards
    variant: str | None  # such as fp16; None for the plain weights
    pickled: bool  # whether they are .bin files, which only torch's weights-only loader reads


def find_weights(names: Iterable[str]) -> list[Weights]:
    """Find the weights among a folder's file names: plain before variants, and safetensors before .bin."""
    matches = [found for name in names if (found := WEIGHTS_FILE.fullmatch(name))]
    files = sorted((found[1] or found[2] or "", found[3] == "bin", found[0]) for found in matches)
    groups = groupby(files, key=lambda file: file[:2])
    return [Weights(tuple(name for *_, name in same), variant or None, pickled) for (variant, pickled), same in groups]


@dataclass(frozen=True)
class Selection:
    """Which model of a folder or a repository is meant; see folder.load."""

    argument: str  # KEY=VALUE as the user named it, for messages
    subfolder: str | None = None  # where the UNet is, such as unet_ema, if the user said so
    variant: str | None = None
    scheduler: Path | None = None  # folder of the scheduler, if the user named another


@dataclass(frozen=True)
class Layout:
    """A model folder as its configuration files describe it, before any weights are read."""

    folder: Path  # with unet/ and scheduler/ below it, or with both at its root
    selection: Selection
    index: dict  # content of model_index.json, {} without one
    unet_at: Path  # folder of the UNet
    unet: dict  # content of the UNet's config.json, {} without one

    @property
    def argument(self) -> str:
        """KEY=VALUE, for messages."""
        return self.selection.argument

    @property
    def pipeline(self) -> str:
        """Class name of the pipeline in model_index.json, or ""."""
        name = self.index.get("_class_name") or ""
        return str(name[-1] if isinstance(name, list) and name else name)

    @property
    def others(self) -> set[str]:
        """Names of the components beside the UNet, its scheduler and a conditioner of Chrysalis."""
        named = {name for name, kind in self.index.items() if isinstance(kind, list) and name[0] != "_" and any(kind)}
        own = {"unet", "scheduler"}
        if self.index.get("conditioner") == ["conditioner", "Conditioner"]:
            own |= {"conditioner", "text_encoder", "tokenizer"}
        return named - own | {name for name in AUTOENCODERS if (self.folder / name).is_dir()}

    @property
    def autoencoder(self) -> str | None:
        """Name of the autoencoder's folder; None without one."""
        return next((name for name in AUTOENCODERS if (self.folder / name / "config.json").is_file()), None)

    @property
    def is_foreign(self) -> bool:
        """Whether it has other components, or a pipeline that works on latents: those may have 3 channels too."""
        return bool(self.others) or any(word in self.pipeline for word in LATENT_PIPELINES)

    @property
    def is_main_model(self) -> bool:
        """Whether it is the model that model.subfolder and model.variant apply to."""
        return self.argument.startswith("model.pretrained=")

    @property
    def has_ema(self) -> bool:
        """Whether EMA weights, as diffusers' training scripts save them, are in unet_ema/."""
        return (self.folder / "unet_ema" / "config.json").is_file()

    def require_unet(self) -> None:
        """Raise UserError if the folder has no UNet."""
        if (self.unet_at / "config.json").is_file():
            return
        if chosen := self.selection.subfolder:
            raise UserError(f"model.subfolder={chosen} has no config.json in {self.folder}: name its UNet's folder.")
        if self.has_ema:
            choice = "add model.subfolder=unet_ema" if self.is_main_model else "rename it to unet"
            raise UserError(f"{self.argument} has no unet/, but EMA weights in unet_ema/: {choice}.")
        raise UserError(
            f"{self.argument} is not a diffusers folder: give one with a config.json in unet/ or at its root."
        )

    def scheduler_file(self) -> Path:
        """Return the scheduler's configuration file; raises UserError without one."""
        place = self.selection.scheduler or self.folder
        file = (place / "scheduler" if (place / "scheduler").is_dir() else place) / "scheduler_config.json"
        if file.is_file():
            return file
        if place != self.folder:
            raise UserError(f"model.scheduler={place} has no scheduler_config.json: give the folder that holds it.")
        # checkpoint-N of diffusers' training scripts is below the folder of the pipeline
        above = self.folder.parent
        hint = "Give the scheduler that it was trained with as model.scheduler=FOLDER_OR_HUB_ID."
        if not self.is_main_model:
            hint = "Save the scheduler that it was trained with there."
        is_above = (above / "scheduler" / "scheduler_config.json").is_file() and self.unet_at.is_relative_to(above)
        if is_above and self.is_main_model:
            hint = f"Give {above} instead, with model.subfolder={self.unet_at.relative_to(above)}."
        raise UserError(f"{self.argument} has no scheduler_config.json, neither in scheduler/ nor at its root. {hint}")

    def weights(self, variant: str | None, names: Iterable[str] | None = None, at: Path | None = None) -> Weights:
        """Choose the weights of a variant among `names`, by default the files in `at`, or in the UNet's folder.

        An autoencoder may lack the variant: its plain weights are then chosen.
        """
        place = at or self.unet_at
        found = find_weights([file.name for file in place.iterdir()] if names is None else names)
        if not found:
            raise UserError(f"{self.argument} has no weights: {WEIGHTS} is needed in {place}.")
        if at is not None and variant not in [w.variant for w in found]:
            return found[0]
        variants = list(dict.fromkeys(w.variant for w in found))
        wanted = variants[0] if variant is None and len(variants) == 1 else variant
        if wanted in variants:
            return next(w for w in found if w.variant == wanted)
        choice = "use " + " or ".join(f"model.variant={name or 'null'}" for name in variants)
        choice = choice if self.is_main_model else f"rename them to {WEIGHTS}"
        raise UserError(f"{self.argument} has no {variant or 'plain'} weights in {self.unet_at}: {choice}.")


def read(folder: Path, selection: Selection) -> Layout:
    """Read the configuration files of a model folder, see Layout; raises UserError for damaged ones."""
    nested, argument = (folder / "unet" / "config.json").is_file(), selection.argument
    unet_at = folder / selection.subfolder if selection.subfolder else folder / "unet" if nested else folder
    files = (folder / "model_index.json", unet_at / "config.json")
    try:
        index, unet = (checks.read_json(file) if file.is_file() else {} for file in files)
    except ValueError as error:
        raise UserError(f"{argument} cannot be used: {error}. Fetch or save it again.") from None
    return Layout(folder, selection, index, unet_at, unet)
