"""A caption for each image, through cross-attention after the UNet's own attention layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chrysalis.conditions.conditioner import Conditioner, TextAttention, TokenEncoder
from chrysalis.conditions.kind import Kind
from chrysalis.data.batch import Batch
from chrysalis.data.columns import composed
from chrysalis.data.store import ImageSet
from chrysalis.system import hub
from chrysalis.system.errors import UserError
from chrysalis.system.memory import align
from chrysalis.system.ranges import Channels, From1To64, Heads, NotNegative
from chrysalis.system.terminal import warn


@dataclass(eq=False)
class Text(Kind[TextAttention]):
    """Captions."""

    name, column, noun = "text", "caption", "caption"
    remedy = "give `text` in a metadata.jsonl, a .txt file beside each image, or data.caption_column=NAME"
    example = 'text="..."'

    encoder: str | None = None  # folder or hub id of a frozen transformers text encoder; None: a small one is trained
    dim: Channels = 64  # width of the small encoder
    layers: From1To64 = 1  # depth of the small encoder
    heads: Heads = 4  # heads of the cross-attention
    levels: Sequence[NotNegative] | None = ()  # levels without self-attention to add cross-attention to; 0: full size
    pooled: bool = True  # also add the pooled states to the timestep embedding

    def __post_init__(self):
        if self.encoder is None and self.dim % self.heads:
            raise UserError(f"condition.text.dim={self.dim} must be a multiple of condition.text.heads={self.heads}.")
        self.frozen = None if self.encoder is None else load_encoder(self.encoder)

    def require_match(self, part: TextAttention, image_set: ImageSet, source: str) -> None:
        if self.frozen is not None:
            setting = f"condition.text.encoder={self.encoder}"
            raise UserError(f"{setting} cannot replace the text encoder of this model: leave it out.")

    def settings(self, image_set: ImageSet, unet: Any) -> dict:
        how = {"places": attention_places(unet, self.levels or ()), "heads": self.heads, "pooled": self.pooled}
        if self.frozen is not None:
            config = self.frozen[1].config
            return how | {"dim": getattr(config, "hidden_size", None) or config.d_model, "encoder": self.encoder}
        captions = [
            c for given in image_set.columns[self.column] for c in ((given,) if isinstance(given, str) else given)
        ]
        words = sorted({word for caption in captions for word in TokenEncoder.split(caption)})
        return how | {"dim": self.dim, "layers": self.layers, "words": words}

    def prepare(self, data: Any, conditioner: Conditioner) -> None:
        if self.frozen is not None:
            self.part.use_encoder(*self.frozen)

    def caption(self, batch: Batch, i: int) -> str:
        return self.of_batch(batch)[i] or "no caption"

    def parse(self, key: str, given: Any) -> str:
        caption, encoder = composed(str(given)), self.part.encoder
        if encoder is None:
            return caption
        words = encoder.split(caption)
        unknown = [word for word in words if word not in encoder.words]
        if unknown and unknown == words:
            raise UserError(
                f"{key}={caption} has no word that this model knows: choose from "
                f"{', '.join(list(encoder.words)[:40])} ..."
            )
        if unknown:
            warn(f"{key}: words that occur in no training caption are left out: {', '.join(dict.fromkeys(unknown))}.")
        return caption

    def stack(self, values: Sequence, seeds: Sequence[int], size: tuple[int, int], device) -> tuple[str, ...]:
        return tuple(values)

    def describe(self) -> str:
        return "captions" if self.part.encoder is None else f"captions of {len(self.part.encoder.words)} words"


def load_encoder(name: str, key: str = "condition.text.encoder", tokenizer: str | None = None) -> tuple:
    """Load (tokenizer, text encoder): CLIP's, T5's, BERT ...; no code of the repository is run.

    name: folder or hub id. key: the configuration key, for messages. tokenizer: its folder; None for the encoder's.
    """
    setting, like = f"{key}={name}", "openai/clip-vit-large-patch14"
    with hub.transformers_source(setting, name, "a text encoder", like, extra="text") as where:
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel, T5EncoderModel

        text_halves = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel}
        cls = text_halves.get(AutoConfig.from_pretrained(**where).model_type, AutoModel)
        model = cls.from_pretrained(**where, variant=_variant(Path(name)), weights_only=True)
        tokenizer_source = where if tokenizer is None else {**where, "pretrained_model_name_or_path": tokenizer}
        return AutoTokenizer.from_pretrained(**tokenizer_source), align(model)


def _variant(folder: Path) -> str | None:
    """The variant of a local folder's weights, such as fp16, where there is one alone; None elsewhere."""
    variants = {file.name.split(".")[1] for file in folder.glob("model.*.safetensors")}
    return variants.pop() if len(variants) == 1 and not (folder / "model.safetensors").is_file() else None


def attention_places(unet: Any, levels: Sequence[int] = ()) -> dict[str, int]:
    """{layer: channels} of the layers that cross-attention follows: self-attention, and ResNet layers of `levels`."""
    channels = unet.config.block_out_channels
    lowest = len(channels) - 1
    if any(level not in range(len(channels)) for level in levels):
        raise UserError(f"condition.text.levels={list(levels)} must be levels from 0 to {lowest}.")
    places = {}
    blocks = [(f"down_blocks.{i}", i, block) for i, block in enumerate(unet.down_blocks)]
    blocks += [("mid_block", lowest, unet.mid_block)]
    blocks += [(f"up_blocks.{i}", lowest - i, block) for i, block in enumerate(unet.up_blocks)]
    for name, level, block in blocks:
        attentions = [a for a in getattr(block, "attentions", None) or [] if a is not None]
        if attentions or level in levels:
            kind, layers = ("attentions", attentions) if attentions else ("resnets", block.resnets)
            places |= {f"{name}.{kind}.{k}": channels[level] for k in range(len(layers))}
    if not places:
        raise UserError(
            "condition=text needs attention layers, and this UNet has none: add some with condition.text.levels=[2,3]."
        )
    return places
