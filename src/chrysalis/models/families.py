"""Which kinds of model can be used: UNets on pixels with a discrete DDPM schedule; every other one is named."""

import inspect
from pathlib import Path

from diffusers import UNet2DModel

from chrysalis.models import checks, training_scheduler
from chrysalis.system.errors import UserError

LIKE = "google/ddpm-celebahq-256"
AUTOENCODERS = ("vae", "vqvae", "movq")
FAMILIES = {  # of pipelines, by the parts beside the UNet and the pipeline's class; the first that fits
    "Stable Diffusion XL": lambda parts, name: "text_encoder_2" in parts or "StableDiffusionXL" in name,
    "Stable Diffusion": lambda parts, name: {"vae", "text_encoder"} <= parts or "StableDiffusion" in name,
    "Kandinsky": lambda parts, name: "movq" in parts,
    "latent diffusion": lambda parts, name: parts & {*AUTOENCODERS, "bert"} or "LDM" in name or "Latent" in name,
    "a text-to-image model": lambda parts, name: bool(parts & {"text_encoder", "tokenizer"}),
}
# what diffusers' EMAModel.save_pretrained writes among the settings of the UNet
OF_EMA = ["decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"]


def refuse_other_pipelines(folder: Path, asked: str) -> None:
    """Only a UNet on pixels and its scheduler, with our own conditioner or without, can be used.

    A latent diffusion UNet of 3 channels would be taken for one on pixels.
    """
    index = {}
    if (folder / "model_index.json").is_file():
        try:
            index = checks.settings(folder / "model_index.json")
        except ValueError as error:
            raise UserError(f"{asked} cannot be used: {error}.") from None
    named = {name for name, kind in index.items() if isinstance(kind, list) and not name.startswith("_") and any(kind)}
    ours = {"unet", "scheduler"}
    if index.get("conditioner") == ["conditioner", "Conditioner"]:
        ours |= {"conditioner", "text_encoder", "tokenizer"}
    others = named - ours | {name for name in AUTOENCODERS if (folder / name).is_dir()}
    pipeline = index.get("_class_name")
    pipeline = pipeline[-1] if isinstance(pipeline, list) and pipeline else pipeline
    if others or any(word in str(pipeline) for word in ("LDM", "Latent", "StableDiffusion")):
        family = next((name for name, is_it in FAMILIES.items() if is_it(others, str(pipeline))), f"a {pipeline}")
        beside = f" (it has {', '.join(sorted(others))} beside the UNet)" if others else ""
        raise UserError(f"{asked} looks like {family}{beside}: only UNets that work on pixels, DDPM's, can be used.")


def refuse_other_classes(config: dict, asked: str) -> None:
    """Only diffusers' UNet2DModel can be used; models of transformers name themselves in `architectures`."""
    name = config.get("_class_name")
    if name == "UNet2DModel":
        return
    others = config.get("architectures") or config.get("model_type")
    others = ", ".join(map(str, others)) if isinstance(others, list) else others
    held = f"a {name}" if name else f"a {others} of transformers" if others else "a model that does not say its class"
    raise UserError(f"{asked} holds {held}, and only UNet2DModel can be used: choose a DDPM, such as {LIKE}.")


def refuse_other_unets(config: dict, asked: str, listening: bool) -> None:
    """Only unconditional RGB models can be trained here, and conditional ones of our own (listening)."""
    if not listening:
        if config.get("in_channels", 3) != 3 or config.get("out_channels", 3) not in (3, 6):
            channels = f"{config.get('in_channels')} channels in and {config.get('out_channels')} out"
            raise UserError(f"{asked} has {channels}: only RGB models (3) can be used.")
        if config.get("class_embed_type") or config.get("num_class_embeds"):
            raise UserError(f"{asked} needs class labels of another tool: only unconditional models can be used.")
    known = {*inspect.signature(UNet2DModel.__init__).parameters, *OF_EMA}
    training_scheduler.refuse_unknown(config, known, "config.json", asked)
