"""The leaves of conf/condition: each says, for a data set and a UNet, what its part of the conditioner is made of."""

from collections.abc import Mapping, Sequence

import numpy as np

from chrysalis.conditions import text_encoders
from chrysalis.conditions.conditioner import Conditioner, TokenEncoder
from chrysalis.conditions.image_source import SOURCES
from chrysalis.data.example import composed
from chrysalis.data.store import ImageSet
from chrysalis.system.errors import UserError, require_whole


class Label:
    """A class an image. dim: of its learned embedding."""

    def __init__(self, dim: int = 64):
        require_whole("condition.label.dim", dim)
        self.dim = dim

    def made_for(self, image_set: ImageSet, unet) -> dict:
        return {"names": list(image_set.label_names), "dim": self.dim}

    @staticmethod
    def require(image_set: ImageSet, source: str) -> None:
        if image_set.labels is None:
            raise UserError(
                f"condition=label, but {source} has no labels: put the images into one folder per label, "
                "give `label` in a metadata.jsonl, or set data.label_column of a hub dataset."
            )


class Vector:
    """Numbers an image: measurements, a colour. dim: of the small network that reads them."""

    def __init__(self, dim: int = 64):
        require_whole("condition.vector.dim", dim)
        self.dim = dim

    def made_for(self, image_set: ImageSet, unet) -> dict:
        mean, std = (f(image_set.vectors, axis=0, dtype=np.float64) for f in (np.nanmean, np.nanstd))
        std = np.where(std > 1e-6 * np.abs(mean), std, 1)
        return {"names": list(image_set.vector_names), "mean": mean.tolist(), "std": std.tolist(), "dim": self.dim}

    @staticmethod
    def require(image_set: ImageSet, source: str) -> None:
        if image_set.vectors is None:
            raise UserError(
                f"condition=vector, but {source} has no numbers: name the columns that hold them, "
                "data.vector_columns=[wingspan,...]."
            )
        empty = [
            name
            for name, values in zip(image_set.vector_names, image_set.vectors.T, strict=True)
            if np.isnan(values).all()
        ]
        if empty:
            raise UserError(f"condition=vector: {empty[0]} has no number for any image of {source}: leave it out.")


class Mask:
    """Where the subject is, as one more channel of conv_in."""

    def made_for(self, image_set: ImageSet, unet) -> dict:
        return {}

    @staticmethod
    def require(image_set: ImageSet, source: str) -> None:
        if image_set.masks is None:
            _refuse_gaps("mask", "data.masks=FOLDER or mask_file_name", image_set.without_mask, image_set, source)


class Image:
    """Any image, as three more channels. source: `given` with the data, or made of the image: `grey`, `small`."""

    def __init__(self, source: str = "given"):
        if source not in SOURCES:
            raise UserError(f"condition.image.source={source} is unknown: choose {', '.join(SOURCES)}.")
        self.source = source

    def made_for(self, image_set: ImageSet, unet) -> dict:
        return {"source": self.source}

    def require(self, image_set: ImageSet, source: str) -> None:
        if self.source == "given" and image_set.conditionings is None:
            how = "data.conditioning_images=FOLDER or conditioning_image_file_name"
            _refuse_gaps("image", how, image_set.without_conditioning, image_set, source)


class Text:
    """Captions, through cross-attention behind the UNet's own attention layers.

    encoder: a folder or hub id of a transformers text encoder, kept frozen; None for a small one over the words of the
    captions, learned along. dim, layers: of that small one. heads: of the cross-attention. levels: resolution levels (0
    is the full one) that attend to text behind every ResNet layer although they have no attention of their own.
    pooled: also add the mean of the states to the time embedding.
    """

    def __init__(
        self,
        encoder: str | None = None,
        dim: int = 64,
        layers: int = 1,
        heads: int = 4,
        levels: Sequence[int] = (),
        pooled: bool = True,
    ):
        for name, value in (("dim", dim), ("layers", layers), ("heads", heads)):
            require_whole(f"condition.text.{name}", value)
        if encoder is None and dim % heads:
            raise UserError(f"condition.text.dim={dim} must be a multiple of condition.text.heads={heads}.")
        self.encoder, self.dim, self.layers, self.heads, self.levels = encoder, dim, layers, heads, tuple(levels)
        self.pooled = pooled
        self.frozen = None if encoder is None else text_encoders.load(encoder)

    def made_for(self, image_set: ImageSet, unet) -> dict:
        how = {"places": attention_places(unet, self.levels), "heads": self.heads, "pooled": self.pooled}
        if self.frozen is not None:
            return how | {"dim": text_encoders.width(self.frozen[1]), "encoder": self.encoder}
        captions = [text for one in image_set.captions for text in ((one,) if isinstance(one, str) else one)]
        words = sorted({word for caption in captions for word in TokenEncoder.split(caption)})
        return how | {"dim": self.dim, "layers": self.layers, "words": words}

    @staticmethod
    def require(image_set: ImageSet, source: str) -> None:
        if image_set.captions is None:
            raise UserError(
                f"condition=text, but {source} has no captions: give `text` in a metadata.jsonl, a .txt file beside "
                "each image, or data.caption_column=NAME."
            )


def _refuse_gaps(what: str, how: str, without: Sequence[str], image_set: ImageSet, source: str) -> None:
    if not without:
        raise UserError(f"condition={what}, but {source} has no {what}s: give them by {how}.")
    listed = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
    raise UserError(
        f"condition={what}, but {len(without)} of {len(image_set)} images of {source} have no {what}: {listed}. "
        "Add what is missing, or take those images away."
    )


def attention_places(unet, levels: Sequence[int] = ()) -> dict[str, int]:
    """{layer: channels} behind which text is attended to: every self-attention, and the ResNet layers of `levels`."""
    channels = unet.config.block_out_channels
    if any(level not in range(len(channels)) for level in levels):
        raise UserError(f"condition.text.levels={list(levels)} must lie in 0..{len(channels) - 1}.")
    places = {}
    blocks = [(f"down_blocks.{i}", i, block) for i, block in enumerate(unet.down_blocks)]
    blocks += [("mid_block", len(channels) - 1, unet.mid_block)]
    blocks += [(f"up_blocks.{i}", len(channels) - 1 - i, block) for i, block in enumerate(unet.up_blocks)]
    for name, level, block in blocks:
        own = [a for a in getattr(block, "attentions", None) or [] if a is not None]
        kind = "attentions" if own else "resnets"
        if own or level in levels:
            places |= {f"{name}.{kind}.{k}": channels[level] for k in range(len(own or block.resnets))}
    if not places:
        raise UserError(
            "condition=text: this UNet has no attention. Say which levels get it: condition.text.levels=[2,3]."
        )
    return places


def condition(unet, known: Conditioner | None, parts: Mapping, image_set: ImageSet, source: str) -> Conditioner | None:
    """The UNet made to listen, in place: to what the model knows already, and to the new parts; None if there are none.

    Raises UserError if the data lack what a part is told.
    """
    if "text" in parts and known is not None and known.text is not None and parts["text"].frozen is not None:
        raise UserError("condition.text.encoder: the model has its own text encoder, which goes with its weights.")
    for part in {**parts, **_known_parts(known)}.values():
        part.require(image_set, source)
    if known is not None and "vector" in known.names:
        told = known.embeddings["vector"].names
        if tuple(map(composed, told)) != tuple(map(composed, image_set.vector_names)):
            raise UserError(
                f"condition=vector: the model is told {', '.join(told)}, and {source} has "
                f"{', '.join(image_set.vector_names)}. Name the same columns in the same order."
            )
    was = None if known is None else known.config.parts.get("image", {}).get("source")
    if was and "image" in parts and parts["image"].source != was:
        raise UserError(f"condition.image.source={parts['image'].source}: this model was trained with {was}.")
    new = {
        name: part.made_for(image_set, unet) for name, part in parts.items() if known is None or name not in known.names
    }
    if known is not None and new:
        raise UserError(
            f"condition={','.join(new)}: the model is conditioned on {', '.join(known.names)} already, and another "
            "part can only be given to a model that has none. Start from its base model."
        )
    if known is not None or not new:
        return known
    own = unet.config.in_channels
    made = Conditioner(new, unet.time_embedding.linear_2.out_features, own)
    if "text" in parts and parts["text"].frozen is not None:
        made.use_encoder(*parts["text"].frozen)
    made.attach(unet)
    return made


def _known_parts(known: Conditioner | None) -> dict:
    """The parts that a loaded model has, to be asked what data they need."""
    kinds = {"label": Label, "vector": Vector, "mask": Mask, "text": Text}
    names = [] if known is None else known.names
    return {n: Image(known.config.parts[n]["source"]) if n == "image" else kinds[n]() for n in names}
