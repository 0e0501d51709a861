"""Conditioning of a pretrained, unconditional UNet2DModel; attaching a new conditioner changes no bit of its output.

A condition maps names to one value per image. Each kind has its own null value and its own path into the UNet:

    name    value                                              null            added as
    label   int64 [B], an index into `names`                   -1              an embedding, to that of the timestep
    vector  float32 [B, D]                                     a row with NaN  an embedding, to that of the timestep
    mask    float [B, 1, H, W], 1 inside and -1 outside        zeros           a channel of conv_in
    image   float [B, 3, H, W] in [-1, 1]                      zeros           channels of conv_in
    text    B strings                                          None            cross-attention after the UNet's own
                                                                               attention, and a pooled embedding

Every exported conditional model contains a copy of this file, so it imports torch and diffusers alone.
"""

import re
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.utils.checkpoint import checkpoint


def zeroed(layer: nn.Module) -> nn.Module:
    """Set all parameters of a layer to 0, so that at first it adds nothing."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class Part(nn.Module):
    """The torch half of a condition kind, built as Part(width of the timestep embedding, **settings).

    adds: what it gives the UNet. dims: dimensions of its values [B, ...].
    """

    adds: ClassVar[Literal["embedding", "channels", "attention"]]
    dims: ClassVar[int] = 1

    def null_values(self, x_t: torch.Tensor) -> Any:
        """The null values of B images shaped like x_t [B, C, H, W]."""
        raise NotImplementedError

    def values(self, given: Any, x_t: torch.Tensor) -> Any:
        """Convert what an exported pipeline is called with, one value for all B images or one for each."""
        rows = torch.as_tensor(given, dtype=torch.float32, device=x_t.device)
        rows = rows[None] if rows.dim() == self.dims - 1 else rows
        return rows.expand(len(x_t), *rows.shape[1:]) if len(rows) == 1 else rows


def _one_each(given: str | Sequence[str], n: int) -> list[str]:
    values = [given] if isinstance(given, str) else list(given)
    return values * (n // len(values)) if n % len(values) == 0 else values


class LabelEmbedding(Part):
    """e = W E[label], with W = 0 at first; the last row of E belongs to the null."""

    adds = "embedding"

    def __init__(self, width: int, names: Sequence[str], dim: int = 64):
        super().__init__()
        self.names = list(names)
        self.table, self.out = nn.Embedding(len(names) + 1, dim), zeroed(nn.Linear(dim, width))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """int64 [B], -1 for none -> [B, width]."""
        return self.out(self.table(torch.where(labels < 0, len(self.names), labels)))

    def index(self, name: str) -> int:
        """The index of a label, whichever Unicode form it and the known names are in: é is one character or two."""
        if name in self.names:
            return self.names.index(name)
        composed = [unicodedata.normalize("NFC", known) for known in self.names]
        if (name := unicodedata.normalize("NFC", name)) not in composed:
            raise ValueError(f"label {name!r} is unknown: choose one of {', '.join(self.names)}")
        return composed.index(name)

    def null_values(self, x_t: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x_t),), -1, device=x_t.device)

    def values(self, given: str | Sequence[str], x_t: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self.index(name) for name in _one_each(given, len(x_t))], device=x_t.device)


class VectorEmbedding(Part):
    """e = W f((v - mean) / std), with W = 0 at first; f is a small MLP, and a learned vector replaces f for the null.

    mean, std: D numbers each, those of the training set, so that any unit of measurement works.
    """

    adds, dims = "embedding", 2
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, width: int, names: Sequence[str], mean: Sequence[float], std: Sequence[float], dim: int = 64):
        super().__init__()
        self.names = list(names)
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32))
        self.inner = nn.Sequential(nn.Linear(len(names), dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.null, self.out = nn.Parameter(torch.zeros(dim)), zeroed(nn.Linear(dim, width))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """float [B, D], NaN for none -> [B, width]."""
        if vectors.shape[1] != len(self.names):
            raise ValueError(f"vector has {vectors.shape[1]} numbers: give {len(self.names)}, {', '.join(self.names)}")
        absent = vectors.isnan().any(dim=1, keepdim=True)
        measured = (torch.where(absent, self.mean, vectors) - self.mean) / self.std
        inner = self.inner(measured.to(self.null.dtype))
        return self.out(torch.where(absent, self.null.to(inner.dtype), inner))

    def null_values(self, x_t: torch.Tensor) -> torch.Tensor:
        return x_t.new_full((len(x_t), len(self.names)), float("nan"), dtype=torch.float32)


class Channels(Part):
    """`count` channels beside those of x_t. source: of the image kind, what its images are made from."""

    adds, dims = "channels", 4

    def __init__(self, width: int, count: int, source: str = "given"):
        super().__init__()
        self.count, self.source = count, source

    def null_values(self, x_t: torch.Tensor) -> torch.Tensor:
        return x_t.new_zeros((len(x_t), self.count, *x_t.shape[2:]))


class WidenedConv(nn.Conv2d):
    """conv(x) + conv'(c) for the channels of x and those of the condition, with conv' = 0 at first.

    One convolution over all channels would differ by rounding, which depends on their number. The state dict does hold
    one: `weight` of a stock Conv2d with all the channels.
    own, extra: numbers of channels of x and of the condition; conv may be loaded with both.
    """

    def __init__(self, conv: nn.Conv2d, own: int, extra: int):
        shape = (conv.kernel_size, conv.stride, conv.padding)
        how = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        # pyrefly: ignore[bad-argument-type]  torch types a convolution's sizes as tuples of any length
        super().__init__(own, conv.out_channels, *shape, **how)
        weight = conv.weight.detach()
        rest = weight[:, own:]
        new = weight.new_zeros(len(weight), extra - rest.shape[1], *weight.shape[2:])
        self.extra = nn.Parameter(torch.cat([rest, new], dim=1))
        self.weight, self.bias = nn.Parameter(weight[:, :own].clone()), conv.bias

    # pyrefly: ignore[bad-override-param-name]  x, as in the equation; the UNet calls it by position
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, c = x.split([self.in_channels, self.extra.shape[1]], dim=1)
        return super().forward(x) + self._conv_forward(c, self.extra, None)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        parts = [destination[f"{prefix}weight"], destination.pop(f"{prefix}extra")]
        destination[f"{prefix}weight"] = torch.cat(parts, dim=1)

    # pyrefly: ignore[bad-override]  the further arguments are passed on as they come
    def _load_from_state_dict(self, state_dict, prefix, *rest):
        key = f"{prefix}weight"
        if key in state_dict:
            state_dict[key], state_dict[f"{prefix}extra"] = state_dict[key].tensor_split([self.in_channels], dim=1)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class TokenEncoder(nn.Module):
    """A small transformer over the words of the training captions, trained along with the UNet.

    longest: maximal number of words of a caption, counting the token that begins each.
    """

    def __init__(self, words: Sequence[str], dim: int, layers: int = 1, heads: int = 4, longest: int = 64):
        super().__init__()
        self.words = {word: i for i, word in enumerate(words, 1)}  # token 0 begins every caption
        self.longest = longest
        self.table, self.places = nn.Embedding(len(words) + 1, dim), nn.Parameter(0.02 * torch.randn(longest, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    @staticmethod
    def split(caption: str) -> list[str]:
        """The words of a caption, in lower case."""
        return re.findall(r"\w+", unicodedata.normalize("NFC", caption.lower()))

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that no training caption had."""
        return [word for word in self.split(caption) if word not in self.words]

    def forward(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """B captions -> states [B, L, dim], bool [B, L] where a token is; unknown words are left out."""
        rows = [[0, *(self.words[w] for w in self.split(c) if w in self.words)][: self.longest] for c in captions]
        length = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.places.device)
        present = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
        present = present.to(tokens.device)
        return self.layers(self.table(tokens) + self.places[:length], src_key_padding_mask=~present), present


class FrozenEncoder:
    """The last hidden states of a transformers text encoder, computed once per distinct caption.

    keep: number of captions whose states are cached, the most recent ones.
    """

    def __init__(self, tokenizer, model: nn.Module, keep: int = 20_000):
        self.tokenizer, self.model, self.keep = tokenizer, model.requires_grad_(False).eval(), keep
        self.states: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.encoded = 0  # number of captions that went through the model

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """B captions -> states float32 [B, L, D], bool [B, L] where a token is."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.states]
        found = {caption: self.states[caption] for caption in captions if caption in self.states}
        for start in range(0, len(new), 32):
            found.update(zip(new[start : start + 32], self._encode(new[start : start + 32], device), strict=True))
        for caption, states in found.items():
            self.states[caption] = states
            self.states.move_to_end(caption)
        while len(self.states) > self.keep:
            self.states.popitem(last=False)
        rows = [found[caption].to(device) for caption in captions]
        present = nn.utils.rnn.pad_sequence([row.new_ones(len(row)) for row in rows], batch_first=True) > 0
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), present

    def _encode(self, captions: list[str], device: torch.device) -> list[torch.Tensor]:
        self.encoded += len(captions)
        limit = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512), 512)
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.autocast(torch.device(device).type, enabled=False):
            inputs = {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}
            states = self.model.to(device)(**inputs).last_hidden_state.float().cpu()
        return [row[present.bool()] for row, present in zip(states, tokens["attention_mask"], strict=True)]


class TextAttention(Part):
    """Cross-attention after some layers of the UNet: h + O softmax(Q(h) K(s)^T / sqrt(d)) V(s), with O = 0 at first.

    Args:
        width: of the timestep embedding.
        places: {name of a layer of the UNet: its number of channels}.
        dim: of the encoder's states s; a learned state replaces them for the null.
        heads: of the cross-attention, fewer where the channels do not divide.
        words, layers: of an own TokenEncoder; words is None where `use_encoder` sets a frozen one.
        pooled: also add W sum(s) / sqrt(L) to the timestep embedding, with W = 0 at first (as SDXL adds its encoder's
            pooled state: Podell et al. 2023, arXiv 2307.01952).
        encoder: folder or hub id of the frozen encoder, kept in the config for the reader.
    """

    adds = "attention"

    def __init__(
        self, width: int, places: Mapping[str, int], dim: int, heads=4, words=None, layers=1, pooled=True, encoder=None
    ):
        super().__init__()
        self.pooled = zeroed(nn.Linear(dim, width)) if pooled else None
        self.places = {name: name.replace(".", "-") for name in places}
        self.encoder = TokenEncoder(words, dim, layers, heads) if words is not None else None
        self.frozen: list[FrozenEncoder] = []  # in a list: it is neither trained nor saved with this module
        self.null = nn.Parameter(torch.zeros(dim))
        self.attentions = nn.ModuleDict()
        for name, channels in places.items():
            groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
            h = next(h for h in range(min(heads, channels), 0, -1) if channels % h == 0)
            size = {"query_dim": channels, "cross_attention_dim": dim, "heads": h, "dim_head": channels // h}
            attention = Attention(**size, norm_num_groups=groups, bias=True)
            zeroed(attention.get_submodule("to_out.0"))
            self.attentions[self.places[name]] = attention
        self.context: tuple[torch.Tensor, torch.Tensor] | None = None  # what `read` set: states and attention bias

    def null_values(self, x_t: torch.Tensor) -> tuple[None, ...]:
        return (None,) * len(x_t)

    def values(self, given: str | Sequence[str], x_t: torch.Tensor) -> tuple[str, ...]:
        return tuple(_one_each(given, len(x_t)))

    def use_encoder(self, tokenizer, model: nn.Module) -> None:
        """Set the frozen encoder of a part without words."""
        self.frozen[:] = [FrozenEncoder(tokenizer, model)]

    def attach(self, unet: nn.Module) -> None:
        for name, key in self.places.items():
            unet.get_submodule(name).register_forward_hook(partial(self._attend, key))

    def _attend(self, key: str, layer: nn.Module, arguments: tuple, out: torch.Tensor) -> torch.Tensor:
        if self.context is None:
            raise ValueError("this UNet reads text: call it through its conditioner")
        states, bias = self.context
        change = self.attentions[key](out, encoder_hidden_states=states, attention_mask=bias.to(out.dtype))
        # in the memory layout of `out`: in another the next layer rounds differently
        return out + torch.empty_like(out).copy_(change)

    def recompute_with_context(self, unet: Any) -> None:
        """Checkpoint gradients by `_checkpointed` in every block of the UNet where checkpointing is on by now."""
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            if getattr(block, "gradient_checkpointing", False):
                block._gradient_checkpointing_func = self._checkpointed

    def _checkpointed(self, layer: nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
        """Checkpoint as diffusers does, but recompute the layer in the backward pass under this forward's context.

        The graph holds that context and frees it. torch.compile needs no help: to it the context is one more input.
        """
        again = layer if torch.compiler.is_compiling() else partial(self._under, self.context, layer)
        return checkpoint(again, *arguments, use_reentrant=False)

    def _under(self, context: tuple[torch.Tensor, torch.Tensor] | None, layer: nn.Module, *arguments: torch.Tensor):
        before, self.context = self.context, context
        try:
            return layer(*arguments)
        finally:
            self.context = before

    def read(self, captions: Sequence[str | None]) -> torch.Tensor | None:
        """Encode B captions into `context`: the states, and 0 or a large negative bias where there is no token.

        Returns:
            What is added to the timestep embedding, [B, width], or None without `pooled`.
        """
        device = self.null.device
        plain = ["" if caption is None else caption.strip() for caption in captions]
        states, present = self.encoder(plain) if self.encoder is not None else self.frozen[0](plain, device)
        states = states.to(self.null.dtype)
        absent = torch.tensor([not caption for caption in plain], device=device).view(-1, 1)
        first = torch.arange(states.shape[1], device=device) == 0
        present = torch.where(absent, first, present)
        states = torch.where((absent & first)[..., None], self.null, states)
        self.context = states, (present.float() - 1)[:, None] * 1e4
        if self.pooled is None:
            return None
        # divided by sqrt(L), so that a word weighs as much in a long caption as a label does
        return self.pooled((states * present[..., None]).sum(1) / present.sum(1, keepdim=True).sqrt().to(states.dtype))


PARTS = {
    "label": LabelEmbedding,
    "vector": VectorEmbedding,
    "mask": partial(Channels, count=1),
    "image": partial(Channels, count=3),
    "text": TextAttention,
}


class Conditioner(ModelMixin, ConfigMixin):
    """The parts of a condition, together with what they add to the UNet's inputs.

    Args:
        parts: {"label": {"names": [...]}, "mask": {}, ...}: the settings of each part's class above. A kind without a
            class of its own names another's as "part": {"depth": {"part": "mask"}}.
        width: of the UNet's timestep embedding.
        own_channels: number of channels of x_t.
    """

    text: TextAttention | None

    @register_to_config
    def __init__(self, parts: dict[str, dict], width: int, own_channels: int = 3):
        super().__init__()
        self.names, self.own_channels = list(parts), own_channels
        self.parts: dict[str, Part] = {name: _part(name, width, **settings) for name, settings in parts.items()}
        self.embeddings = nn.ModuleDict(self._adding("embedding"))
        self.channels = {name: part.count for name, part in self._adding("channels").items()}
        self.text_name, self.text = next(iter(self._adding("attention").items()), ("", None))
        self.register_buffer("format", torch.ones(()))  # channels have no weights here, and a file needs some

    def _adding(self, what: str) -> dict[str, Any]:
        return {name: part for name, part in self.parts.items() if part.adds == what}

    def attach(self, unet: Any) -> Any:
        """Adapt the UNet, plain or loaded from a conditional folder, to the inputs of `forward`; in place, once."""
        if getattr(unet, "conditioned_on", None) == self.names:
            return unet
        unet.conditioned_on = list(self.names)
        if self.embeddings or (self.text is not None and self.text.pooled is not None):
            unet.class_embedding = nn.Identity()
            unet.register_to_config(class_embed_type="identity")
        extra = sum(self.channels.values())
        if extra:
            unet.conv_in = WidenedConv(unet.conv_in, self.own_channels, extra)
            unet.register_to_config(in_channels=self.own_channels + extra)
        if self.text is not None:
            self.text.attach(unet)
        return unet

    def forward(self, unet: nn.Module, x_t: torch.Tensor, t: torch.Tensor, cond: Mapping | None = None) -> torch.Tensor:
        """The UNet's output for x_t [B, C, H, W] under `cond`, in which a missing part means its null."""
        cond = self.completed(cond, x_t)
        x = torch.cat([x_t, *(cond[name].to(x_t.dtype) for name in self.channels)], dim=1)
        added = [part(cond[name]) for name, part in self.embeddings.items()]
        if self.text is not None:
            self.text.recompute_with_context(unet)
            added.append(self.text.read(cond[self.text_name]))
        added = [embedding for embedding in added if embedding is not None]
        try:
            return unet(x, t, class_labels=sum(added) if added else None, return_dict=False)[0]
        finally:
            if self.text is not None:
                self.text.context = None

    def completed(self, cond: Mapping | None, x_t: torch.Tensor) -> dict:
        """The condition with the null of every part that it lacks."""
        given = cond or {}
        return {name: given[name] if name in given else self.null(name, x_t) for name in self.names}

    def null(self, name: str, x_t: torch.Tensor):
        """The null values of a part for images shaped like x_t [B, C, H, W]."""
        return self.parts[name].null_values(x_t)

    def use_encoder(self, tokenizer, model: nn.Module) -> None:
        """Set the frozen text encoder that this conditioner was trained with."""
        assert self.text is not None  # only a text condition has an encoder
        self.text.use_encoder(tokenizer, model)


def _part(name: str, width: int, part: str | None = None, **settings) -> Part:
    if (part or name) not in PARTS:
        raise ValueError(f"condition {name!r} is unknown: choose one of {', '.join(PARTS)}")
    return PARTS[part or name](width, **settings)
