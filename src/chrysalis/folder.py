"""Diffusers folders into a model: both hub layouts, safetensors only, the training scheduler, a condition, a LoRA."""

import copy
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from diffusers import DDPMScheduler, UNet2DModel

from chrysalis import adapters, hub, soundness
from chrysalis.alignment import align
from chrysalis.conditioning import encoders
from chrysalis.conditioning.conditioner import Conditioner
from chrysalis.errors import UserError, require_path
from chrysalis.files import shown
from chrysalis.objective import Objective

REPOSITORY = Path(__file__).resolve().parents[2]
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
        self.scheduler.register_to_config(prediction_type=objective.prediction)
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
) -> Model:
    """From a folder or hub id, with unet/ and scheduler/ below it or both at its root. key: what the user set it by.

    gradient_checkpointing: keep only what goes into each ResNet layer, and compute the rest again in the backward pass.
    """
    where, asked = locate(pretrained, key), f"{key}={pretrained}"
    model = _load_folder(where, asked) if isinstance(where, Path) else _load_hub(pretrained, asked)
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
    """What a model folder was fine-tuned from, as the card in it says; None if it does not."""
    card = Path(origin or "") / "README.md"
    found = (
        re.search(r"^base_model: (.+)$", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if card.is_file()
        else None
    )
    return found.group(1).strip() if found else None


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
    """The model with the averaged weights of a run's checkpoint file (runs/NAME/checkpoints/...)."""
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)["callbacks"]
        averages = next(state["averages"] for state in saved.values() if "averages" in state)
        unet, conditioner = copy.deepcopy((model.unet, model.conditioner))  # together: the one has hooks of the other
        holder = torch.nn.ModuleDict({"unet": unet} | ({} if conditioner is None else {"conditioner": conditioner}))
        own = dict(holder.named_parameters())
        trained = {name: (own.get(name), weight) for name, weight in averages.items()}
    except Exception as error:  # a damaged or foreign file raises a dozen kinds
        raise UserError(f"{key}={file} is not a checkpoint of a run of this model.") from error
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
            f"{key}={pretrained} is a file: give the diffusers folder that holds it.{soundness.unpickled(given)}"
        )
    if str(pretrained).startswith((".", "/", "~", "runs/", "assets/")) or str(pretrained).count("/") != 1:
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


def _load_folder(folder: Path, asked: str) -> Model:
    nested = (folder / "unet" / "config.json").is_file()
    unet_at = folder / "unet" if nested else folder
    scheduler_at = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    if not (unet_at / "config.json").is_file():
        raise UserError(
            f"{asked} is not a diffusers folder: it has no readable config.json, neither in unet/ nor at its root."
        )
    try:
        config = soundness.settings(unet_at / "config.json")
    except ValueError as error:
        raise UserError(f"{asked} cannot be used: {error}.") from None
    if config.get("_class_name") != "UNet2DModel":
        raise UserError(f"{asked} holds a {config.get('_class_name')}, and only UNet2DModel can be used.")
    if not list(unet_at.glob("diffusion_pytorch_model*.safetensors")):
        pickled = next(iter(sorted(unet_at.glob("*.bin"))), None)
        what = "only pickled weights, which are never loaded" if pickled else "no weights"
        raise UserError(f"{asked} has {what}: {WEIGHTS} is needed in {unet_at}.{soundness.unpickled(pickled)}")
    if not (scheduler_at / "scheduler_config.json").is_file():
        raise UserError(f"{asked} has no scheduler_config.json, neither in scheduler/ nor at its root.")
    listening = (folder / "conditioner" / "config.json").is_file()
    try:
        noise = soundness.settings(scheduler_at / "scheduler_config.json")
        _refuse_other_kinds({} if listening else config, noise, asked)
        soundness.require_weights_of(config, unet_at)
        settings = {"use_safetensors": True, "low_cpu_mem_usage": False, "local_files_only": True}
        unet, report = UNet2DModel.from_pretrained(unet_at, output_loading_info=True, **settings)
        scheduler = DDPMScheduler.from_pretrained(scheduler_at, local_files_only=True)
        conditioner = _load_conditioner(folder, unet) if listening else None
        soundness.require_complete(report, [unet] if conditioner is None else [unet, conditioner])
        if not scheduler.alphas_cumprod.isfinite().all():
            raise ValueError("the noise levels in its scheduler_config.json are not finite")
        if (folder / "lora").is_dir():
            adapters.load(unet, folder / "lora")
        return Model(unet, scheduler, str(folder), conditioner)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the libraries raise, the user needs the folder's name
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
        raise UserError(f"{asked} could not be loaded: {why}.") from error


def _load_conditioner(folder: Path, unet: UNet2DModel) -> Conditioner:
    """The conditioner of a conditional model folder, attached to its UNet."""
    settings = {"use_safetensors": True, "low_cpu_mem_usage": False, "local_files_only": True}
    conditioner = Conditioner.from_pretrained(folder / "conditioner", **settings)
    if (folder / "text_encoder").is_dir():
        at, tokenizer = str(folder / "text_encoder"), str(folder / "tokenizer")
        conditioner.use_encoder(*encoders.load(at, "model.pretrained", tokenizer))
    conditioner.attach(unet)
    return conditioner


def _refuse_other_kinds(unet: dict, scheduler: dict, asked: str) -> None:
    """Only unconditional RGB models on a discrete variance-preserving schedule can be trained here."""
    if unet.get("in_channels", 3) != 3 or unet.get("out_channels", 3) not in (3, 6):
        channels = f"{unet.get('in_channels')} channels in and {unet.get('out_channels')} out"
        raise UserError(f"{asked} has {channels}: only RGB models (3) can be used.")
    if unet.get("class_embed_type") or unet.get("num_class_embeds"):
        raise UserError(f"{asked} needs class labels of another tool: only unconditional models can be used.")
    if "beta_schedule" not in scheduler and "trained_betas" not in scheduler:
        kind = scheduler.get("_class_name")
        raise UserError(f"{asked} was trained with {kind}, which is no discrete DDPM noise schedule.")


def _load_hub(hub_id: str, asked: str) -> Model:
    """The same two layouts, from the local cache of the hub; asked of the hub itself only if they are not there."""
    last: Exception | None = None
    for only_cached in (True, False):
        if not only_cached and hub.unreachable():
            break
        for unet_in, scheduler_in in (("unet", "scheduler"), (None, None)):
            try:
                settings = {"use_safetensors": True, "low_cpu_mem_usage": False, "local_files_only": only_cached}
                unet = UNet2DModel.from_pretrained(hub_id, subfolder=unet_in, **settings)
                where = {"subfolder": scheduler_in, "local_files_only": only_cached}
                scheduler = DDPMScheduler.from_pretrained(hub_id, **where)
            except Exception as error:  # the hub's client raises a dozen kinds; all mean that it is not to be had
                last = error
            else:
                _refuse_other_kinds(dict(unet.config), dict(scheduler.config), asked)
                return Model(unet, scheduler, hub_id)
    raise _not_to_be_had(asked) from last


def _not_to_be_had(asked: str) -> UserError:
    why = (
        "there is no network"
        if hub.unreachable()
        else "no such UNet2DModel with safetensors is there, or it is private"
    )
    return UserError(
        f"{asked} could not be fetched from the hub: {why}. The offline default is model.pretrained={BUNDLED}."
    )


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


def fit_to_size(model: Model, size: tuple[int, int], key: str = "data.image_size") -> str | None:
    """Check that the UNet can halve (height, width) and write it into the config; a sentence if the size is new.

    key: what the user set it by.
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
    return f"The model was trained at {native[1]} x {native[0]} px and now learns {size[1]} x {size[0]} px."
