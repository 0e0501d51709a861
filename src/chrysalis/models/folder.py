"""Diffusers folders into a model: both hub layouts, safetensors only, the training scheduler, a condition, a LoRA."""

import copy
import difflib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import yaml
from diffusers import DDPMScheduler, UNet2DModel

from chrysalis.conditions import text_encoders
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.diffusion.objective import Objective
from chrysalis.models import checks, families, lora, training_scheduler
from chrysalis.system import hub
from chrysalis.system.alignment import align
from chrysalis.system.errors import UserError, require_path
from chrysalis.system.files import REPOSITORY, shown
from chrysalis.system.terminal import say

BUNDLED = "assets/moths-64"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass
class Model:
    """A UNet with its training scheduler. origin: the folder or hub id it came from, None for a new one.

    conditioner: attached to the UNet, of a model that is told something; None of an unconditional one.
    train: which weights are to learn, see freezing.py.
    """

    unet: UNet2DModel
    scheduler: DDPMScheduler
    origin: str | None
    conditioner: Conditioner | None = None
    train: str | Sequence[str] = "all"

    @property
    def prediction(self) -> str | None:
        """What a pretrained UNet predicts; None for a new one, which can learn to predict anything."""
        return self.scheduler.config.prediction_type if self.origin else None

    def trained_for(self, objective: Objective) -> DDPMScheduler:
        """The training scheduler, with the objective written into the config that is exported."""
        self.scheduler.register_to_config(prediction_type=objective.name)
        return self.scheduler

    def size(self) -> tuple[int, int]:
        """The (height, width) it was trained at."""
        native = self.unet.config.sample_size
        if native is None:
            raise UserError(f"{self.origin} does not say its image size: give image_size=PIXELS.")
        return (native, native) if isinstance(native, int) else tuple(native)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Of the UNet and the conditioner."""
        return [p for part in (self.unet, self.conditioner) if part is not None for p in part.parameters()]

    def description(self) -> str:
        millions = sum(p.numel() for p in self.parameters()) / 1e6
        predicts = self.scheduler.config.prediction_type
        learning = sum(p.numel() for p in self.parameters() if p.requires_grad) / 1e6
        told = f", {learning:.2f} M of them learn" if learning < 0.999 * millions else ""
        told += f", conditioned on {', '.join(self.conditioner.names)}" if self.conditioner is not None else ""
        return f"model: {self.origin or 'new'}, {millions:.1f} M parameters, predicts {predicts}{told}"


def load(
    pretrained: str,
    key: str = "model.pretrained",
    train: str | Sequence[str] = "all",
    gradient_checkpointing: bool = False,
    subfolder: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
) -> Model:
    """From a folder or hub id, with unet/ and scheduler/ below it or both at its root. key: what the user set it by.

    subfolder: where the UNet lies below it, such as unet_ema; None for unet/, or the root.
    variant: of the weight files, such as fp16 for diffusion_pytorch_model.fp16.safetensors; None for the plain ones,
    or, where there is only one variant, for that.
    revision: a branch, tag or commit of a hub id, which may also be written ID@REVISION; None for its main branch.
    gradient_checkpointing: keep only what goes into each ResNet layer, and compute the rest again in the backward pass.
    """
    where, asked = locate(pretrained, key), f"{key}={pretrained}"
    if isinstance(where, Path):
        if revision is not None:
            raise UserError(f"model.revision={revision} is for a hub id, and {asked} is a folder: leave it out.")
        model = _load_folder(where, asked, subfolder, variant)
    else:
        hub_id, named = hub.split_revision(where)
        model = _load_hub(hub_id, asked, subfolder, variant, revision or named)
    for part in filter(None, (model.unet, model.conditioner)):
        align(part)
    _checkpoint_gradients(model.unet, gradient_checkpointing)
    return replace(model, train=train)


def _checkpoint_gradients(unet: UNet2DModel, asked: bool) -> None:
    if asked not in (True, False):
        raise UserError(f"model.gradient_checkpointing={asked} is unknown: choose true or false.")
    if asked:
        unet.enable_gradient_checkpointing()


def base_of(origin: str | None) -> str | None:
    """What a model folder was fine-tuned from, as its card says, or of a local model its run's config.yaml."""
    folder = Path(origin or "")
    card, config = folder / "README.md", folder.parent / "config.yaml"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        for line in (r"^base_model: (.+)$", r"^A diffusion UNet fine-tuned from `(assets/[\w.-]+)`"):
            if found := re.search(line, text, re.MULTILINE):
                revision = re.search(r"^base_model_revision: (.+)$", text, re.MULTILINE)
                return found[1].strip() + (f"@{revision[1].strip()}" if revision is not None else "")
    if folder.name == "pipeline" and config.is_file():
        with suppress(yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError):
            return yaml.safe_load(config.read_text(encoding="utf-8"))["model"].get("pretrained")
    return None


def load_beside(model: Model, pretrained: str, key: str) -> Model:
    """Another model on the same noise levels: of others, nothing that compares or mixes the two would be true."""
    other = load(str(pretrained), key)
    same = len(other.scheduler.alphas_cumprod) == len(model.scheduler.alphas_cumprod)
    if not same or not torch.allclose(other.scheduler.alphas_cumprod, model.scheduler.alphas_cumprod, atol=1e-6):
        raise UserError(f"{key}={pretrained} has other noise levels than {model.origin}: they cannot be used together.")
    for name in ("label", "vector"):
        ours, theirs = (m.conditioner.embeddings if m.conditioner is not None else {} for m in (model, other))
        if name in ours and name in theirs and ours[name].names != theirs[name].names:
            raise UserError(
                f"{key}={pretrained} knows another {name} than {model.origin}: {theirs[name].names[:5]} ..."
            )
    return other


def from_checkpoint(model: Model, file: str, key: str) -> Model:
    """The model with the EMA weights of a run's checkpoint file (runs/NAME/checkpoints/...)."""
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)["callbacks"]
        averages = next(state["averages"] for state in saved.values() if "averages" in state)
        unet, conditioner = copy.deepcopy((model.unet, model.conditioner))  # together: the one has hooks of the other
        holder = torch.nn.ModuleDict({"unet": unet} | ({} if conditioner is None else {"conditioner": conditioner}))
        own = dict(holder.named_parameters())
        trained = {name: (own.get(name), weight) for name, weight in averages.items()}
    except Exception as error:  # a damaged or foreign file raises a dozen kinds
        raise UserError(f"{key}={file} is not a checkpoint of a run of this model.") from error
    if any(".lora_" in name and mine is None for name, (mine, _) in trained.items()):
        raise UserError(
            f"{key}={file} holds a LoRA apart from the weights, and {model.origin} has it merged into them: give the "
            "folder of a run that was trained less, or train with adapter.merge=false."
        )
    if not trained or any(mine is None or mine.shape != weight.shape for mine, weight in trained.values()):
        raise UserError(f"{key}={file} holds other weights than {model.origin} has.")
    with torch.no_grad():
        for mine, weight in trained.values():
            mine.copy_(weight)
    return Model(unet, model.scheduler, file, conditioner)


def locate(pretrained: str, key: str = "model.pretrained") -> Path | str:
    """A path as the user wrote it (of a run: its pipeline), or a run's name, or below this repository (bundled models),
    or a hub id."""
    given, asked = require_path(key, pretrained), f"{key}={pretrained}"
    for path in (given, "runs" / given, REPOSITORY / given):
        if path.is_dir():
            if (path / "pipeline" / "model_index.json").is_file():
                return path / "pipeline"
            if (path / "config.yaml").is_file() and not any((path / n).exists() for n in ("unet", "config.json")):
                run = shown(path)
                raise UserError(f"{asked} is a run that has exported no model yet: resume={run} finishes it.")
            return path
    if given.suffix == ".ckpt" and given.parent.name == "checkpoints":
        raise UserError(
            f"{asked} is a checkpoint, and a model is a folder: give the run's, {shown(given.parent.parent)}. "
            "A checkpoint can be given as guidance.autoguidance.checkpoint."
        )
    if given.exists():
        raise UserError(
            f"{key}={pretrained} is a file: give the diffusers folder that holds it.{checks.unpickled(given)}"
        )
    hub_id, _ = hub.split_revision(str(pretrained))
    if hub_id.startswith((".", "/", "~", "runs/", "assets/")) or hub_id.count("/") != 1:
        if near := _nearest(given):
            raise UserError(f"{asked} is not there. Did you mean {near}?")
        raise UserError(
            f"{asked} is neither a folder nor a hub id like google/ddpm-celebahq-256. The bundled model is {BUNDLED}."
        )
    return pretrained


def _nearest(given: Path) -> str | None:
    """The folder, beside one that is not there, whose name is most like it; of a bare name, the run's."""
    for path in (given, *(place / given for place in (Path("runs"), REPOSITORY) if not given.is_absolute())):
        there = [folder.name for folder in path.parent.glob("*/")] if path.parent.is_dir() else []
        if len(given.parts) > 1 or path.parent == Path("runs"):
            for name in difflib.get_close_matches(path.name, there, 1):
                return str(given.with_name(name) if len(given.parts) > 1 else name)
    return None


def newest_pipeline() -> str:
    """The newest run's pipeline below ./runs, else the bundled model."""
    found = sorted(Path("runs").glob("**/pipeline/model_index.json"), key=lambda p: p.stat().st_mtime)
    return str(found[-1].parent) if found else BUNDLED


def _load_folder(folder: Path, asked: str, subfolder: str | None = None, variant: str | None = None) -> Model:
    unet_at, config = _unet_of(folder, asked, subfolder)
    weights = _weights_of(unet_at, asked, variant, (file.name for file in unet_at.iterdir()))
    scheduler_at = _scheduler_of(folder, asked, unet_at)
    listening = (folder / "conditioner" / "config.json").is_file()
    try:
        checks.refuse_pointers(unet_at / name for name in weights.names)
        for part in ("conditioner", "text_encoder", "lora"):
            checks.refuse_pointers(sorted((folder / part).glob("*.safetensors")))
        noise = checks.settings(scheduler_at / "scheduler_config.json")
        families.refuse_other_unets(config, asked, listening)
        scheduler = training_scheduler.read(noise, asked)
        checks.require_weights_of(config, unet_at, weights)
        settings = {"low_cpu_mem_usage": False, "local_files_only": True, "output_loading_info": True}
        settings |= {"variant": weights.variant, "use_safetensors": not weights.pickled}
        unet, report = UNet2DModel.from_pretrained(unet_at, **settings)
        conditioner = _load_conditioner(folder, unet) if listening else None
        checks.require_complete(report, [unet] if conditioner is None else [unet, conditioner])
        if (folder / "lora").is_dir():
            lora.load(unet, folder / "lora")
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries raise, the user needs the folder's name
        raise UserError(f"{asked} could not be loaded: {hub.first_line(error)}.") from error
    if weights.variant != variant:
        say(f"{asked} has only {weights.variant} weights: these are taken.")
    if (folder / "unet_ema" / "config.json").is_file() and _is_main(asked) and not subfolder:
        say(f"{asked} also has EMA weights in unet_ema/: model.subfolder=unet_ema takes these instead.")
    return Model(unet, scheduler, str(folder), conditioner)


def _is_main(asked: str) -> bool:
    """Whether it is the model that model.subfolder and model.variant are about."""
    return asked.startswith("model.pretrained=")


def _unet_of(folder: Path, asked: str, subfolder: str | None) -> tuple[Path, dict]:
    """Where a model folder has its UNet, and that one's configuration; UserError for every other kind of model."""
    families.refuse_other_pipelines(folder, asked)
    nested = (folder / "unet" / "config.json").is_file()
    unet_at = folder / subfolder if subfolder else folder / "unet" if nested else folder
    if not (unet_at / "config.json").is_file():
        if subfolder:
            raise UserError(f"model.subfolder={subfolder} has no config.json in {folder}: name its UNet's folder.")
        if (folder / "unet_ema" / "config.json").is_file():
            choice = "add model.subfolder=unet_ema" if _is_main(asked) else "rename it to unet"
            raise UserError(f"{asked} has no unet/, but EMA weights in unet_ema/: {choice}.")
        raise UserError(
            f"{asked} is not a diffusers folder: it has no readable config.json, neither in unet/ nor at its root."
        )
    try:
        config = checks.settings(unet_at / "config.json")
    except ValueError as error:
        raise UserError(f"{asked} cannot be used: {error}.") from None
    families.refuse_other_classes(config, asked)
    return unet_at, config


def _scheduler_of(folder: Path, asked: str, unet_at: Path) -> Path:
    """Where a model folder has its scheduler's configuration."""
    scheduler_at = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    if not (scheduler_at / "scheduler_config.json").is_file():
        # checkpoint-N of diffusers' training scripts lies in the pipeline's folder
        above = (folder.parent / "scheduler" / "scheduler_config.json").is_file() and _is_main(asked)
        above = above and unet_at.is_relative_to(folder.parent)
        hint = "Save the scheduler that it was trained with there, in a local copy if it is the hub's."
        if above:
            hint = f"Give {folder.parent} instead, with model.subfolder={unet_at.relative_to(folder.parent)}."
        raise UserError(f"{asked} has no scheduler_config.json, neither in scheduler/ nor at its root. {hint}")
    return scheduler_at


def _weights_of(unet_at: Path, asked: str, variant: str | None, names: Iterable[str]) -> checks.Weights:
    """Of the files of the UNet's folder the weights that are to be loaded."""
    there = checks.weights_among(names)
    if (weights := checks.chosen(there, variant)) is not None:
        return weights
    if not there:
        raise UserError(f"{asked} has no weights: {WEIGHTS} is needed in {unet_at}.")
    wanted = f"no {variant} weights" if variant else "no plain weights"
    choice = "use " + " or ".join(dict.fromkeys(f"model.variant={w.variant or 'null'}" for w in there))
    choice = choice if _is_main(asked) else f"rename them to {WEIGHTS}"
    raise UserError(f"{asked} has {wanted} in {unet_at}: {choice}.")


def _load_conditioner(folder: Path, unet: UNet2DModel) -> Conditioner:
    """The conditioner of a conditional model folder, attached to its UNet."""
    settings = {"use_safetensors": True, "low_cpu_mem_usage": False, "local_files_only": True}
    conditioner = Conditioner.from_pretrained(folder / "conditioner", **settings)
    if (folder / "text_encoder").is_dir():
        at, tokenizer = str(folder / "text_encoder"), str(folder / "tokenizer")
        conditioner.use_encoder(*text_encoders.load(at, "model.pretrained", tokenizer))
    conditioner.attach(unet)
    return conditioner


def _load_hub(hub_id: str, asked: str, subfolder: str | None, variant: str | None, revision: str | None) -> Model:
    """The same from the local cache of the hub, with the same checks; the hub is asked only where that does not do."""
    origin = f"{hub_id}@{revision}" if revision else hub_id
    try:
        return replace(_load_fetched(hub_id, asked, subfolder, variant, revision, only_cached=True), origin=origin)
    except Exception as error:  # UserError too: such as a cache that holds a part of it
        if hub.unreachable() and isinstance(error, UserError):
            raise
    try:
        return replace(_load_fetched(hub_id, asked, subfolder, variant, revision, only_cached=False), origin=origin)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises dozens of kinds
        why = hub.why(error, hub_id, revision=revision)
        offline = f" The offline default is model.pretrained={BUNDLED}." if hub.unreachable() else ""
        raise UserError(f"{asked} could not be fetched from the hub: {why}.{offline}") from error


def _load_fetched(
    hub_id: str, asked: str, subfolder: str | None, variant: str | None, revision: str | None, only_cached: bool
) -> Model:
    with hub.quiet():
        # first what it is: the weights of another family are gigabytes
        at = hub.snapshot(hub_id, hub.SETTINGS, only_cached, revision)
        unet_at, _ = _unet_of(at, asked, subfolder)
        _scheduler_of(at, asked, unet_at)
        place = unet_at.relative_to(at)
        listed = hub.listing(hub_id, at, only_cached)
        if listed is not None:
            names = [Path(name).name for name in listed if Path(name).parent == place]
        else:
            there = [file.name for file in unet_at.iterdir()]
            names = [n for n in there if any(w.variant == variant for w in checks.weights_among([n]))]
            if not names and hub.unreachable():  # else the hub may have those asked for
                names = there
        weights = _weights_of(unet_at, asked, variant, names)
        wanted = [(place / name).as_posix() for name in weights.names]
        at = hub.snapshot(hub_id, [*hub.SETTINGS, *hub.BESIDE, *wanted], only_cached, revision)
        return _load_folder(at, asked, subfolder, variant)


def scratch(
    image_size: int | tuple[int, int],
    block_out_channels: tuple[int, ...] = (32, 64, 96, 128),
    layers_per_block: int = 1,
    attention_levels: tuple[int, ...] = (),
    num_train_timesteps: int = 1000,
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear",
    gradient_checkpointing: bool = False,
) -> Model:
    """A new UNet2DModel. attention_levels: the resolution levels (0 is the full one) whose blocks attend.

    gradient_checkpointing: see load.
    """
    if not block_out_channels or any(channels % 8 for channels in block_out_channels):
        raise UserError(f"model.block_out_channels={list(block_out_channels)} must be one or more multiples of 8.")
    levels = range(len(block_out_channels))
    if any(level not in levels for level in attention_levels):
        raise UserError(f"model.attention_levels={list(attention_levels)} must lie in 0..{len(levels) - 1}.")
    down = tuple("AttnDownBlock2D" if level in attention_levels else "DownBlock2D" for level in levels)
    unet = UNet2DModel(
        sample_size=image_size if isinstance(image_size, int) else tuple(image_size),
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        norm_num_groups=next(g for g in (32, 16, 8) if all(c % g == 0 for c in block_out_channels)),
    )
    _checkpoint_gradients(unet, gradient_checkpointing)
    return Model(unet, DDPMScheduler(num_train_timesteps, beta_schedule=beta_schedule), None)


def fit_to_size(model: Model, size: tuple[int, int], key: str = "data.image_size", now: str = "learns") -> str | None:
    """Check that the UNet can halve (height, width) and write it into the config; a sentence if the size is new.

    key: what the user set it by. now: what the model does at the new size.
    """
    native = model.unet.config.sample_size
    native = (native, native) if isinstance(native, int) else native and tuple(native)
    step = 2 ** (len(model.unet.config.block_out_channels) - 1)
    if any(side % step for side in size):
        near = " or ".join(
            str(s)
            for s in sorted(
                {max(step, side // step * step) for side in size} | {-(-side // step) * step for side in size}
            )
        )
        raise UserError(
            f"{key}={size[0] if size[0] == size[1] else list(size)} cannot be halved {step.bit_length() - 1} "
            f"times, as this UNet does: use a multiple of {step}, such as {near}."
        )
    if native == tuple(size):
        return None
    model.unet.register_to_config(sample_size=size[0] if size[0] == size[1] else tuple(size))
    if native is None or model.origin is None:
        return None
    return f"The model was trained at {native[1]} x {native[0]} px and now {now} {size[1]} x {size[0]} px."
