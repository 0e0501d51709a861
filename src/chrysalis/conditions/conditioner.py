"""Three ways to tell a pretrained, unconditional UNet2DModel what to draw. At first each changes nothing, to the bit.

A condition is a mapping from names to one value an image, each with its own null:

    label   int64 [B], the place in `names`; -1                   added to the time embedding
    vector  float [B, D]; a row with NaN                          added to the time embedding
    mask    float [B, 1, H, W], 1 inside and -1 outside; all 0    extra channels of conv_in
    image   float [B, 3, H, W] in [-1, 1]; all 0                  extra channels of conv_in
    text    B strings; None                                       cross-attention behind the UNet's own, and as a whole
                                                                  added to the time embedding

This file travels with every conditional model folder, so it needs nothing but torch and diffusers.
"""

import re
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.utils.checkpoint import checkpoint

CHANNELS = {"mask": 1, "image": 3}


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias 0: what follows it is not there yet."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class LabelEmbedding(nn.Module):
    """e = W E[label], W zero at first. The last row of E is the null's."""

    def __init__(self, width: int, names: Sequence[str], dim: int = 64):
        super().__init__()
        self.names = list(names)
        self.table, self.out = nn.Embedding(len(names) + 1, dim), zeroed(nn.Linear(dim, width))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """int64 [B], -1 for none -> [B, width]."""
        return self.out(self.table(torch.where(labels < 0, len(self.names), labels)))

    def place(self, name: str) -> int:
        """The number of a label, whichever Unicode form it or the known name is in: é is one character or two."""
        if name in self.names:
            return self.names.index(name)
        composed = [unicodedata.normalize("NFC", known) for known in self.names]
        if (name := unicodedata.normalize("NFC", name)) not in composed:
            raise ValueError(f"label {name!r} is unknown: the model knows {', '.join(self.names)}")
        return composed.index(name)


class VectorEmbedding(nn.Module):
    """e = W f((v - mean) / std), W zero at first; f is a small MLP, and a learned vector stands for the null.

    mean, std: of the training set, so that any unit of measurement will do.
    """

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
            raise ValueError(f"a vector has {vectors.shape[1]} numbers, and the model is told {', '.join(self.names)}")
        absent = vectors.isnan().any(dim=1, keepdim=True)
        measured = (torch.where(absent, self.mean, vectors) - self.mean) / self.std
        inner = self.inner(measured.to(self.null.dtype))
        return self.out(torch.where(absent, self.null.to(inner.dtype), inner))


class WidenedConv(nn.Conv2d):
    """conv(x) + conv'(c) of the channels that x and the condition have; conv' is zero at first.

    One convolution over all channels would be the same but for rounding, which depends on how many there are. In the
    state dict it is one: `weight` of a stock Conv2d with all the channels.
    """

    def __init__(self, conv: nn.Conv2d, own: int, extra: int):
        shape = (conv.kernel_size, conv.stride, conv.padding)
        super().__init__(own, conv.out_channels, *shape, device=conv.weight.device, dtype=conv.weight.dtype)
        weight = conv.weight.detach()
        rest = weight[:, own:]
        new = weight.new_zeros(len(weight), extra - rest.shape[1], *weight.shape[2:])
        self.extra = nn.Parameter(torch.cat([rest, new], dim=1))
        self.weight, self.bias = nn.Parameter(weight[:, :own].clone()), conv.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, c = x.split([self.in_channels, self.extra.shape[1]], dim=1)
        return super().forward(x) + self._conv_forward(c, self.extra, None)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        parts = [destination[f"{prefix}weight"], destination.pop(f"{prefix}extra")]
        destination[f"{prefix}weight"] = torch.cat(parts, dim=1)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        key = f"{prefix}weight"
        if key in state_dict:
            state_dict[key], state_dict[f"{prefix}extra"] = state_dict[key].tensor_split([self.in_channels], dim=1)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class TokenEncoder(nn.Module):
    """A small transformer over the words of the training captions, learned along with the UNet."""

    def __init__(self, words: Sequence[str], dim: int, layers: int = 1, heads: int = 4, longest: int = 64):
        super().__init__()
        self.words = {word: i for i, word in enumerate(words, 1)}  # 0 begins every caption
        self.longest = longest
        self.table, self.places = nn.Embedding(len(words) + 1, dim), nn.Parameter(0.02 * torch.randn(longest, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    @staticmethod
    def split(caption: str) -> list[str]:
        return re.findall(r"\w+", unicodedata.normalize("NFC", caption.lower()))

    def unknown(self, caption: str) -> list[str]:
        return [word for word in self.split(caption) if word not in self.words]

    def forward(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """B captions, of which unknown words are left out -> states [B, L, dim], bool [B, L] where there is a word."""
        rows = [[0, *(self.words[w] for w in self.split(c) if w in self.words)][: self.longest] for c in captions]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.places.device)
        there = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
        there = there.to(tokens.device)
        return self.layers(self.table(tokens) + self.places[:longest], src_key_padding_mask=~there), there


class FrozenEncoder:
    """The last hidden states of a transformers text encoder, asked once for each distinct caption.

    keep: how many captions are remembered, the latest ones.
    """

    def __init__(self, tokenizer, model: nn.Module, keep: int = 20_000):
        self.tokenizer, self.model, self.keep = tokenizer, model.requires_grad_(False).eval(), keep
        self.states: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.asked = 0  # captions that the model was run on

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """B captions -> states float32 [B, L, D], bool [B, L] where there is a token."""
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
        there = nn.utils.rnn.pad_sequence([row.new_ones(len(row)) for row in rows], batch_first=True) > 0
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), there

    def _encode(self, captions: list[str], device: torch.device) -> list[torch.Tensor]:
        self.asked += len(captions)
        limit = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512), 512)
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.autocast(torch.device(device).type, enabled=False):
            given = {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}
            states = self.model.to(device)(**given).last_hidden_state.float().cpu()
        return [row[there.bool()] for row, there in zip(states, tokens["attention_mask"], strict=True)]


class TextAttention(nn.Module):
    """Cross-attention behind some of the UNet's layers: h + O softmax(Q(h) K(s)^T / sqrt(d)) V(s), O zero at first.

    places: {name of a layer of the UNet: its channels}. dim: of the states s. words: the vocabulary of an own encoder,
    or None if `frozen` is to be one. A learned state stands for the null. pooled: also add W sum(s) / sqrt(L) to the
    time embedding, of that `width`, W zero at first (SDXL adds its encoder's so: Podell et al. 2023, arXiv 2307.01952).
    """

    def __init__(
        self, width: int, places: Mapping[str, int], dim: int, heads: int = 4, words=None, layers: int = 1, pooled=True
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
            zeroed(attention.to_out[0])
            self.attentions[self.places[name]] = attention
        self.seen: tuple[torch.Tensor, torch.Tensor] | None = None

    def attach(self, unet: nn.Module) -> None:
        for name, key in self.places.items():
            unet.get_submodule(name).register_forward_hook(partial(self._attend, key))

    def _attend(self, key: str, layer: nn.Module, arguments: tuple, out: torch.Tensor) -> torch.Tensor:
        if self.seen is None:
            raise ValueError("this UNet reads text: call it through its conditioner")
        states, bias = self.seen
        change = self.attentions[key](out, encoder_hidden_states=states, attention_mask=bias.to(out.dtype))
        # in the layout that `out` has: the next layer rounds otherwise in another
        return out + torch.empty_like(out).copy_(change)

    def recompute_under_text(self, unet: nn.Module) -> None:
        """If the UNet checkpoints its gradients: by `_checkpointed`, whenever that was switched on."""
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            if getattr(block, "gradient_checkpointing", False):
                block._gradient_checkpointing_func = self._checkpointed

    def _checkpointed(self, layer: nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
        """As diffusers' own, but the backward pass, which runs the layer again, is shown the text of this forward.

        The graph holds that text, so it goes when the graph goes. torch.compile needs no help: to it the text is one
        more input.
        """
        again = layer if torch.compiler.is_compiling() else partial(self._under, self.seen, layer)
        return checkpoint(again, *arguments, use_reentrant=False)

    def _under(self, seen: tuple[torch.Tensor, torch.Tensor], layer: nn.Module, *arguments: torch.Tensor):
        before, self.seen = self.seen, seen
        try:
            return layer(*arguments)
        finally:
            self.seen = before

    def read(self, captions: Sequence[str | None]) -> torch.Tensor | None:
        """Set what the layers see: the states, and 0 or a large negative number where there is no token.

        Returns what is added to the time embedding, [B, width], or None.
        """
        device = self.null.device
        plain = ["" if caption is None else caption.strip() for caption in captions]
        states, there = self.encoder(plain) if self.encoder is not None else self.frozen[0](plain, device)
        states = states.to(self.null.dtype)
        absent = torch.tensor([not caption for caption in plain], device=device).view(-1, 1)
        first = torch.arange(states.shape[1], device=device) == 0
        there = torch.where(absent, first, there)
        states = torch.where((absent & first)[..., None], self.null, states)
        self.seen = states, (there.float() - 1)[:, None] * 1e4
        if self.pooled is None:
            return None
        # over the root of their number, so that a word weighs as much in a long caption as a label does
        return self.pooled((states * there[..., None]).sum(1) / there.sum(1, keepdim=True).sqrt().to(states.dtype))


class Conditioner(ModelMixin, ConfigMixin):
    """The parts of a condition, what they add to the UNet's inputs, and their nulls.

    parts: {"label": {"names": [...]}, "mask": {}, ...}, each with the arguments of its class above.
    width: of the UNet's time embedding. own_channels: of x_t.
    """

    @register_to_config
    def __init__(self, parts: dict[str, dict], width: int, own_channels: int = 3):
        super().__init__()
        self.names = list(parts)
        self.embeddings, self.text = nn.ModuleDict(), None
        for name, how in parts.items():
            if name == "label":
                self.embeddings[name] = LabelEmbedding(width, **how)
            elif name == "vector":
                self.embeddings[name] = VectorEmbedding(width, **how)
            elif name == "text":
                self.text = TextAttention(width, **{k: v for k, v in how.items() if k != "encoder"})
            elif name not in CHANNELS:
                raise ValueError(f"a condition called {name!r} is unknown")
        self.channels = {name: CHANNELS[name] for name in parts if name in CHANNELS}
        self.register_buffer("format", torch.ones(()))  # channels alone have no weights here, and a file needs some

    def attach(self, unet: nn.Module) -> nn.Module:
        """Make the UNet, plain or loaded from a conditional folder, take what `forward` gives it. In place, once."""
        if getattr(unet, "listens_to", None) == self.names:
            return unet
        unet.listens_to = list(self.names)
        if self.embeddings or (self.text is not None and self.text.pooled is not None):
            unet.class_embedding = nn.Identity()
            unet.register_to_config(class_embed_type="identity")
        extra = sum(self.channels.values())
        if extra:
            unet.conv_in = WidenedConv(unet.conv_in, self.config.own_channels, extra)
            unet.register_to_config(in_channels=self.config.own_channels + extra)
        if self.text is not None:
            self.text.attach(unet)
        return unet

    def forward(self, unet: nn.Module, x_t: torch.Tensor, t: torch.Tensor, cond: Mapping | None = None) -> torch.Tensor:
        """What the UNet answers for x_t [B, C, H, W] under `cond`; a part that is not given is null."""
        cond = self.completed(cond, x_t)
        x = torch.cat([x_t, *(cond[name].to(x_t.dtype) for name in self.channels)], dim=1)
        added = [part(cond[name]) for name, part in self.embeddings.items()]
        if self.text is not None:
            self.text.recompute_under_text(unet)
            added.append(self.text.read(cond["text"]))
        added = [embedding for embedding in added if embedding is not None]
        try:
            return unet(x, t, class_labels=sum(added) if added else None, return_dict=False)[0]
        finally:
            if self.text is not None:
                self.text.seen = None

    def completed(self, cond: Mapping | None, x_t: torch.Tensor) -> dict:
        """The condition with a null in every part that it lacks."""
        given = cond or {}
        return {name: given[name] if name in given else self.null(name, x_t) for name in self.names}

    def null(self, name: str, x_t: torch.Tensor):
        """The null of a part for images shaped like x_t."""
        n = len(x_t)
        if name == "label":
            return torch.full((n,), -1, device=x_t.device)
        if name == "vector":
            return x_t.new_full((n, len(self.embeddings[name].names)), float("nan"), dtype=torch.float32)
        if name == "text":
            return (None,) * n
        return x_t.new_zeros((n, self.channels[name], *x_t.shape[2:]))

    def use_encoder(self, tokenizer, model: nn.Module) -> None:
        """The frozen text encoder that this conditioner was trained with."""
        self.text.frozen[:] = [FrozenEncoder(tokenizer, model)]
