"""Model families: which of them reads a folder. To add one, write a file and list its class in FAMILIES."""

from pathlib import Path

from chrysalis.models import checks, layout
from chrysalis.models.latent_unet import LatentUNet
from chrysalis.models.layout import AUTOENCODERS, Layout, Selection, Weights
from chrysalis.models.location import EXAMPLE
from chrysalis.models.model import Model
from chrysalis.models.pixel_unet import GreyUNet, PixelUNet, RGBAUNet
from chrysalis.models.stable_diffusion import StableDiffusion
from chrysalis.system.errors import UserError, first_line
from chrysalis.system.terminal import say

FAMILIES: tuple[type[PixelUNet], ...] = (PixelUNet, GreyUNet, RGBAUNet, LatentUNet, StableDiffusion)
# Names, for messages, of pipelines that no family reads, by their other components and class; the first match counts
KNOWN = {
    "Stable Diffusion XL": lambda parts, name: "text_encoder_2" in parts or "StableDiffusionXL" in name,
    "Stable Diffusion": lambda parts, name: {"vae", "text_encoder"} <= parts or "StableDiffusion" in name,
    "Kandinsky": lambda parts, name: "movq" in parts,
    "latent diffusion": lambda parts, name: parts & {*AUTOENCODERS, "bert"} or "LDM" in name or "Latent" in name,
    "a text-to-image model": lambda parts, name: bool(parts & {"text_encoder", "tokenizer"}),
}


def recognize(folder: Path, selection: Selection) -> tuple[type[PixelUNet], Layout]:
    """Find the family that reads a folder, and its layout, without reading weights.

    Raises UserError if no family reads it, or a configuration file is damaged or missing.
    """
    found, argument = layout.read(folder, selection), selection.argument
    family = next((family for family in FAMILIES if family.reads(found)), None)
    if family is None:
        accepted = " or ".join(", ".join(family.accepts for family in FAMILIES).rsplit(", ", 1))
        raise UserError(f"{argument} {_appearance(found)}: choose a model such as {EXAMPLE}, {accepted}.")
    try:
        checks.require_sane(found.unet, "config.json")
    except ValueError as error:
        raise UserError(f"{argument} cannot be used: {error}.") from None
    return family, found


def load(folder: Path, selection: Selection) -> Model:
    """Load a model folder with the family that reads it; raises UserError if none does, or a file is damaged."""
    (family, found), argument = recognize(folder, selection), selection.argument
    weights = found.weights(selection.variant)
    found.scheduler_file()  # refuse a folder without one before reading its weights
    try:
        others: dict[Path, Weights] = {at: found.weights(weights.variant, at=at) for at in family.other_weights(found)}
        model = family.load(found, {found.unet_at: weights, **others})
    except UserError:
        raise
    except Exception as error:  # the libraries raise dozens of kinds for damaged files; the user needs the name
        raise UserError(f"{argument} could not be loaded: {first_line(error)}. Fetch or save it again.") from error
    if weights.variant != selection.variant:
        say(f"{argument} has only {weights.variant} weights, which are loaded.")
    if found.has_ema and found.is_main_model and not selection.subfolder:
        say(f"{argument} also has EMA weights in unet_ema/: model.subfolder=unet_ema loads these instead.")
    return model


def _appearance(found: Layout) -> str:
    """Say what a folder that no family reads is or lacks, as a predicate; raises UserError if it has no UNet at all."""
    if found.is_foreign:
        missing = next((name for name in ("vqvae", "vae") if name in found.others), None)
        if found.others == {missing} and found.autoencoder is None:
            return f"names {missing} in its model_index.json, and has no {missing}/config.json"
        fits = (name for name, is_it in KNOWN.items() if is_it(found.others, found.pipeline))
        kind = next(fits, f"a {found.pipeline or 'pipeline without a class'}")
        beside = f" (it has {', '.join(sorted(found.others))} beside the UNet)" if found.others else ""
        return f"looks like {kind}{beside}"
    found.require_unet()
    config = found.unet
    if (name := config.get("_class_name")) != "UNet2DModel":
        others = config.get("architectures") or config.get("model_type")  # as configurations of transformers have them
        others = ", ".join(map(str, others)) if isinstance(others, list) else others
        unknown = f"a {others} of transformers" if others else "a model that does not state its class"
        return f"holds {name or unknown}"
    return f"has {config.get('in_channels')} channels in and {config.get('out_channels')} out"
