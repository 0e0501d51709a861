"""Conditioning of a pretrained, unconditional UNet2DModel; attaching a new conditioner changes no bit of its output.

A condition maps names to one value per image. Each kind has its own null value and its own path into the UNet:

    name    value                                              null            added as
    label   int64 [B], an index into `names`                   -1              an embedding, to that of the timestep
    vector  float32 [B, D]                                     a row with NaN  an embedding, to that of the timestep
    mask    float [B, 1, H, W], 1 inside and -1 outside        zeros           a convolution, to conv_in
    image   float [B, 3, H, W] in [-1, 1]                      zeros           a convolution, to conv_in
    text    B strings                                          None            cross-attention after the UNet's own
                                                                               attention, and a pooled embedding

The UNet itself stays as it is: forward hooks add to the outputs of its layers. Every exported conditional model
contains a copy of this file, so it imports torch and diffusers alone.
"""

import math
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint


def zeroed(layer: nn.Module) -> nn.Module:
    """Set all parameters of a layer to 0, so that at first it adds nothing."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class Part(nn.Module):
    """The torch half of a condition kind, built as Part(width of the timestep embedding, **settings).

    forward: values -> an embedding [B, width], except in InputChannels and TextAttention. dims: axes of its values.
    """

    dims: ClassVar[int] = 1

    def null_values(self, x_t: torch.Tensor) -> Any:
        """The null values of B images shaped like x_t [B, C, H, W]."""
        raise NotImplementedError

    def values(self, given: Any, x_t: torch.Tensor) -> Any:
        """Convert what an exported pipeline is called with, one value for all B images or one for each."""
        rows = torch.as_tensor(given, dtype=torch.float32, device=x_t.device)
        rows = rows[None] if rows.dim() == self.dims - 1 else rows
        return rows.expand(len(x_t), *rows.shape[1:]) if len(rows) == 1 else rows


class LabelEmbedding(Part):
    """e = W E[label], with W = 0 at first; the last row of E belongs to the null."""

    def __init__(self, width: int, names: Sequence[str], dim: int = 64):
        super().__init__()
        self.names = [unicodedata.normalize("NFC", name) for name in names]
        self.table, self.out = nn.Embedding(len(names) + 1, dim), zeroed(nn.Linear(dim, width))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Embed labels, int64 [B], -1 for none, as [B, width]."""
        return self.out(self.table(torch.where(labels < 0, len(self.names), labels)))

    def add(self, names: Sequence[str]) -> None:
        """Add labels, whose embeddings start as that of the null."""
        self.names += [unicodedata.normalize("NFC", name) for name in names]
        rows, null = self.table.weight.detach().split([len(self.table.weight) - 1, 1])
        self.table = nn.Embedding.from_pretrained(torch.cat([rows, null.repeat(len(names) + 1, 1)]), freeze=False)

    def index(self, name: str) -> int:
        """The index of a label, whichever Unicode form it is in: é is one character or two."""
        if (name := unicodedata.normalize("NFC", name)) not in self.names:
            raise ValueError(f"label {name!r} is unknown: choose one of {', '.join(self.names)}")
        return self.names.index(name)

    def null_values(self, x_t: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x_t),), -1, device=x_t.device)

    def values(self, given: str | Sequence[str], x_t: torch.Tensor) -> torch.Tensor:
        names = [given] * len(x_t) if isinstance(given, str) else given
        return torch.tensor([self.index(name) for name in names], device=x_t.device)


class VectorEmbedding(Part):
    """e = W f((v - mean) / std), with W = 0 at first; f is a small MLP, and a learned vector replaces f for the null.

    mean, std: D numbers each, those of the dataset, so that any unit of measurement works.
    """

    dims = 2

    def __init__(self, width: int, names: Sequence[str], mean: Sequence[float], std: Sequence[float], dim: int = 64):
        super().__init__()
        self.names = list(names)
        self.mean = nn.Buffer(torch.tensor(list(mean), dtype=torch.float32))
        self.std = nn.Buffer(torch.tensor(list(std), dtype=torch.float32))
        self.inner = nn.Sequential(nn.Linear(len(names), dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.null, self.out = nn.Parameter(torch.zeros(dim)), zeroed(nn.Linear(dim, width))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Embed vectors, float [B, D], NaN for none, as [B, width]."""
        if vectors.shape[1] != len(self.names):
            raise ValueError(f"vector has {vectors.shape[1]} numbers: give {len(self.names)}, {', '.join(self.names)}")
        absent = vectors.isnan().any(dim=1, keepdim=True)
        normalized = (torch.where(absent, self.mean, vectors) - self.mean) / self.std
        inner = self.inner(normalized.to(self.null.dtype))
        return self.out(torch.where(absent, self.null.to(inner.dtype), inner))

    def null_values(self, x_t: torch.Tensor) -> torch.Tensor:
        return x_t.new_full((len(x_t), len(self.names)), float("nan"), dtype=torch.float32)


class InputChannels(Part):
    """Images of `count` channels that conv_in reads along with x_t.

    source: for the image kind, what its images are derived from. factor: pixels per element of x_t along each side;
    above 1 in a latent model, where factor^2 pixels become as many channels.
    """

    dims = 4

    def __init__(self, width: int, count: int, source: str = "given", factor: int = 1):
        super().__init__()
        self.count, self.source, self.factor = count, source, factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Convert [B, count, H, W] to channels at the resolution of x_t."""
        return F.pixel_unshuffle(images, self.factor)

    def null_values(self, x_t: torch.Tensor) -> torch.Tensor:
        height, width = x_t.shape[2:]
        return x_t.new_zeros((len(x_t), self.count, self.factor * height, self.factor * width))


def padded(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad B rows [L_i, ...] with zeros to one tensor [B, L, ...]; also return bool [B, L], False on padding."""
    present = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    return pad_sequence(list(rows), batch_first=True), present


class TokenEncoder(nn.Module):
    """A small transformer over the words of the dataset's captions, trained along with the UNet."""

    def __init__(self, words: Sequence[str], dim: int, layers: int = 1, heads: int = 4, longest: int = 64):
        super().__init__()
        self.words = {word: i for i, word in enumerate(words, 1)}  # token 0 begins every caption
        self.longest = longest  # maximum number of tokens, counting the one that begins every caption
        self.table, self.places = nn.Embedding(len(words) + 1, dim), nn.Parameter(0.02 * torch.randn(longest, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    @staticmethod
    def split(caption: str) -> list[str]:
        """The words of a caption, in lower case."""
        return re.findall(r"\w+", unicodedata.normalize("NFC", caption.lower()))

    def forward(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode B captions as states [B, L, dim] and bool [B, L], False on padding; unknown words are left out."""
        rows = [[0, *(self.words[w] for w in self.split(c) if w in self.words)][: self.longest] for c in captions]
        tokens, present = (batch.to(self.places.device) for batch in padded([torch.tensor(row) for row in rows]))
        states = self.table(tokens) + self.places[: tokens.shape[1]]
        return self.layers(states, src_key_padding_mask=~present), present


class FrozenEncoder:
    """The last hidden states of a transformers text encoder, cached for the `keep` most recent captions."""

    def __init__(self, tokenizer, model: nn.Module, keep: int = 20_000):
        self.tokenizer, self.model, self.keep = tokenizer, model.requires_grad_(False).eval(), keep
        self.states: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, captions: Sequence[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode B captions as states float32 [B, L, D] and bool [B, L], False on padding."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.states]
        for start in range(0, len(new), 32):
            some = new[start : start + 32]
            self.states.update(zip(some, self._encode(some, device), strict=True))
        for caption in captions:
            self.states.move_to_end(caption)
        rows = [self.states[caption].to(device) for caption in captions]
        while len(self.states) > self.keep:
            self.states.popitem(last=False)
        return padded(rows)

    @torch.no_grad()
    def _encode(self, captions: list[str], device: torch.device) -> list[torch.Tensor]:
        limit = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512), 512)
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.autocast(torch.device(device).type, enabled=False):
            inputs = {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}
            states = self.model.to(device)(**inputs).last_hidden_state.float().cpu()
        return [row[present.bool()] for row, present in zip(states, tokens["attention_mask"], strict=True)]


class TextAttention(Part):
    """Cross-attention after some layers of the UNet: h + O softmax(Q(h) K(s)^T / sqrt(d)) V(s), with O = 0 at first.

    places: {name of a layer of the UNet: its number of channels}. dim: width of the encoder's states s; a learned state
    replaces them for the null. heads: fewer where they do not divide the channels. words, layers: for a TokenEncoder;
    words is None if `use_encoder` sets a frozen one, whose folder or hub id the config keeps as `encoder`. pooled: also
    add W sum(s) / sqrt(L) to the timestep embedding, with W = 0 at first (like the pooled
    state in SDXL: Podell et al. 2023, arXiv 2307.01952).
    """

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
            h = next(h for h in range(min(heads, channels), 0, -1) if channels % h == 0)
            groups, size = math.gcd(32, channels), {"heads": h, "dim_head": channels // h}
            self.attentions[self.places[name]] = Attention(channels, dim, **size, norm_num_groups=groups, bias=True)
            zeroed(self.attentions[self.places[name]].get_submodule("to_out.0"))

    def null_values(self, x_t: torch.Tensor) -> tuple[None, ...]:
        return (None,) * len(x_t)

    def values(self, given: str | Sequence[str], x_t: torch.Tensor) -> tuple[str, ...]:
        return (given,) * len(x_t) if isinstance(given, str) else tuple(given)

    def use_encoder(self, tokenizer, model: nn.Module) -> None:
        """Set the frozen encoder of a part without words."""
        self.frozen[:] = [FrozenEncoder(tokenizer, model)]

    def forward(self, captions: Sequence[str | None]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Encode B captions as states [B, L, dim], attention bias [B, 1, L], pooled embedding [B, width] or None."""
        device = self.null.device
        plain = ["" if caption is None else caption.strip() for caption in captions]
        states, present = self.encoder(plain) if self.encoder is not None else self.frozen[0](plain, device)
        states = states.to(self.null.dtype)
        absent = torch.tensor([not caption for caption in plain], device=device).view(-1, 1)
        first = torch.arange(states.shape[1], device=device) == 0
        present = torch.where(absent, first, present)
        states = torch.where((absent & first)[..., None], self.null, states)
        # divided by sqrt(L), not L, so that single words still count in a long caption
        pooled = (states * present[..., None]).sum(1) / present.sum(1, keepdim=True).sqrt().to(states.dtype)
        return states, (present.float() - 1)[:, None] * 1e4, None if self.pooled is None else self.pooled(pooled)


PARTS = {"label": LabelEmbedding, "vector": VectorEmbedding, "text": TextAttention}
PARTS |= {"mask": partial(InputChannels, count=1), "image": partial(InputChannels, count=3)}


class Conditioner(ModelMixin, ConfigMixin):
    """The parts of a condition, and the hooks by which they add to the layers of a UNet.

    parts: the settings of each part's class above, {"label": {"names": [...]}, "mask": {}, ...}; a kind without a class
    of its own names another's, {"depth": {"part": "mask"}}. width: size of the UNet's timestep embedding, four
    times the channels of its conv_in.
    """

    @register_to_config
    def __init__(self, parts: dict[str, dict], width: int):
        super().__init__()
        self.names = list(parts)
        self.parts: dict[str, Part] = {}
        for name, settings in parts.items():
            kind = settings.get("part", name)
            if kind not in PARTS:
                raise ValueError(f"condition {kind!r} is unknown: choose one of {', '.join(PARTS)}")
            self.parts[name] = PARTS[kind](width, **{key: value for key, value in settings.items() if key != "part"})
        self.channels = {name: part for name, part in self.parts.items() if isinstance(part, InputChannels)}
        # conv' in conv_in's new output conv(x_t) + conv'(c): one convolution over all channels would round differently
        count = sum(part.count * part.factor**2 for part in self.channels.values())
        self.conv_in: Any = nn.Parameter(torch.zeros(width // 4, count, 3, 3)) if count else None
        self.text_name = next((name for name, part in self.parts.items() if isinstance(part, TextAttention)), "")
        others = [name for name in self.parts if name not in (*self.channels, self.text_name)]
        self.embeddings = nn.ModuleDict({name: self.parts[name] for name in others})
        self.text: Any = self.parts.get(self.text_name)  # a TextAttention or None
        # during a forward pass: embedding [B, width], channels [B, count, H, W], states and bias of the text
        self.context: tuple | None = None

    def add_labels(self, name: str, labels: Sequence[str]) -> None:
        """Add labels to the label condition `name`."""
        part: Any = self.parts[name]  # a LabelEmbedding
        part.add(labels)
        settings = {**self.config["parts"][name], "names": list(part.names)}
        self.register_to_config(parts={**self.config["parts"], name: settings})

    def attach(self, unet: Any) -> None:
        """Add the condition to the layers of a UNet; in place, once."""
        if getattr(unet, "conditioned_on", None) == self.names:
            return
        unet.conditioned_on = list(self.names)
        for name in ("time_embedding", "conv_in", *(self.text.places if self.text is not None else ())):
            unet.get_submodule(name).register_forward_hook(partial(self._add, name))
        if self.channels:  # so that a LoRA that is initialized next has the same random numbers as in earlier versions
            nn.Conv2d(unet.conv_in.in_channels, unet.conv_in.out_channels, 3)

    def forward(self, unet: Any, x_t: torch.Tensor, t: torch.Tensor, cond: Mapping | None = None) -> torch.Tensor:
        """The UNet's output for x_t [B, C, H, W] under `cond`, in which a missing part means its null."""
        cond, states, bias = self.completed(cond, x_t), None, None
        channels = [part(cond[name].to(x_t.dtype)) for name, part in self.channels.items()]
        embeddings: list[Any] = [part(cond[name]) for name, part in self.embeddings.items()]
        if self.text is not None:
            for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
                if getattr(block, "gradient_checkpointing", False):  # it may have been switched on since
                    block._gradient_checkpointing_func = self._checkpointed
            states, bias, pooled = self.text(cond[self.text_name])
            embeddings += [] if pooled is None else [pooled]
        total: Any = sum(embeddings)
        added = (total.to(unet.dtype) if embeddings else None, torch.cat(channels, dim=1) if channels else None)
        with self._with_context((*added, states, bias)):
            return unet(x_t, t, return_dict=False)[0]

    def completed(self, cond: Mapping | None, x_t: torch.Tensor) -> dict:
        """The condition of images shaped like x_t [B, C, H, W], with the null of every part that it lacks."""
        given = cond or {}
        return {name: given[name] if name in given else part.null_values(x_t) for name, part in self.parts.items()}

    def _add(self, name: str, layer: nn.Module, arguments: tuple, out: torch.Tensor) -> torch.Tensor:
        """The forward hook of a layer of the UNet."""
        if self.context is None:
            raise ValueError("this UNet is conditional: call it through its conditioner")
        embedding, channels, states, bias = self.context
        if name == "time_embedding":
            return out if embedding is None else out + embedding
        if name == "conv_in":
            return out if channels is None else out + F.conv2d(channels, self.conv_in, padding=1)
        attention = self.text.attentions[self.text.places[name]]
        change = attention(out, encoder_hidden_states=states, attention_mask=bias.to(out.dtype))
        # in the memory layout of `out`: with another, the next layer would round differently
        return out + torch.empty_like(out).copy_(change)

    def _checkpointed(self, layer: nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
        """Checkpoint as diffusers does, but recompute the layer in the backward pass under this forward's context.

        The autograd graph keeps that context until it is freed. Under torch.compile the context is one more input.
        """
        context = self.context

        def recompute(*arguments: torch.Tensor) -> torch.Tensor:
            with self._with_context(context):
                return layer(*arguments)

        return checkpoint(layer if torch.compiler.is_compiling() else recompute, *arguments, use_reentrant=False)

    @contextmanager
    def _with_context(self, context: tuple | None) -> Iterator[None]:
        before, self.context = self.context, context
        try:
            yield
        finally:
            self.context = before
