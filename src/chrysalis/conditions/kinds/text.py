"""A caption for each image, through cross-attention after the UNet's own attention layers."""

from collections.abc import Sequence
from typing import Any

from chrysalis.conditions import text_encoders
from chrysalis.conditions.conditioner import TextAttention, TokenEncoder
from chrysalis.conditions.kind import Kind
from chrysalis.data.batch import Batch
from chrysalis.data.columns import composed
from chrysalis.data.store import ImageSet
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import Channels, Layers, NotNegative, Positive
from chrysalis.system.terminal import warn


class Text(Kind[TextAttention]):
    """Captions.

    Args:
        encoder: folder or hub id of a transformers text encoder, kept frozen; None for a small one, trained along.
        dim, layers: of the small encoder.
        heads: of the cross-attention.
        levels: resolution levels (0 is the full one) without self-attention whose ResNet layers are followed by it.
        pooled: also add the pooled states to the timestep embedding.
    """

    name, column, noun = "text", "caption", "caption"
    remedy = "give `text` in a metadata.jsonl, a .txt file beside each image, or data.caption_column=NAME"
    example = 'text="..."'

    def __init__(
        self,
        encoder: str | None = None,
        dim: Channels = 64,
        layers: Layers = 1,
        heads: Positive = 4,
        levels: Sequence[NotNegative] | None = (),
        pooled: bool = True,
    ):
        if encoder is None and dim % heads:
            raise UserError(f"condition.text.dim={dim} must be a multiple of condition.text.heads={heads}.")
        self.encoder, self.dim, self.layers, self.heads, self.levels = encoder, dim, layers, heads, tuple(levels or ())
        self.pooled = pooled
        self.frozen = None if encoder is None else text_encoders.load(encoder)

    def require_match(self, part: TextAttention, image_set: ImageSet, source: str) -> None:
        if self.frozen is not None:
            raise UserError(
                f"condition.text.encoder={self.encoder} cannot replace the text encoder of this model: leave it out."
            )

    def settings(self, image_set: ImageSet, unet: Any) -> dict:
        how = {"places": attention_places(unet, self.levels), "heads": self.heads, "pooled": self.pooled}
        if self.frozen is not None:
            config = self.frozen[1].config
            return how | {"dim": getattr(config, "hidden_size", None) or config.d_model, "encoder": self.encoder}
        captions = [
            c for given in image_set.columns[self.column] for c in ((given,) if isinstance(given, str) else given)
        ]
        words = sorted({word for caption in captions for word in TokenEncoder.split(caption)})
        return how | {"dim": self.dim, "layers": self.layers, "words": words}

    def prepare(self, data: Any) -> None:
        if self.frozen is not None:
            self.part.use_encoder(*self.frozen)

    def of_batch(self, batch: Batch) -> tuple[str | None, ...]:
        return tuple(caption or None for caption in super().of_batch(batch))

    def caption(self, batch: Batch, i: int) -> str:
        return self.of_batch(batch)[i] or "no caption"

    def parse(self, key: str, given: Any) -> str:
        caption, encoder = composed(str(given)), self.part.encoder
        unknown = [] if encoder is None else encoder.unknown(caption)
        if encoder is not None and unknown and len(unknown) == len(encoder.split(caption)):
            raise UserError(
                f"{key}={caption}: this model knows none of these words. It knows "
                f"{', '.join(list(encoder.words)[:40])} ..."
            )
        if unknown:
            warn(f"{key}: {', '.join(dict.fromkeys(unknown))} occurred in no training caption and is left out.")
        return caption

    def stack(self, values: Sequence, seeds: Sequence[int], size: tuple[int, int], device) -> tuple[str, ...]:
        return tuple(values)

    def describe(self) -> str:
        return "captions" if self.part.encoder is None else f"captions of {len(self.part.encoder.words)} words"


def attention_places(unet: Any, levels: Sequence[int] = ()) -> dict[str, int]:
    """{layer: channels} of the layers to attend to text after: every self-attention, and ResNet layers of `levels`."""
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
            "condition=text: this UNet has no attention. Name the levels to add it to: condition.text.levels=[2,3]."
        )
    return places
