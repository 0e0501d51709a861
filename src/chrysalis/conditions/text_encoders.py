"""Frozen text encoders of transformers, by folder or hub id."""

import torch

from chrysalis.system import transformers_folder
from chrysalis.system.alignment import align


def load(name: str, key: str = "condition.text.encoder", tokenizer: str | None = None) -> tuple:
    """(tokenizer, text encoder): CLIP's text half, T5's encoder, BERT ...; no code of theirs.

    tokenizer: where it lies, if not in the same place. key: what the user set it by.
    """
    asked, like = f"{key}={name}", "openai/clip-vit-large-patch14"
    with transformers_folder.source(asked, name, "a text encoder", like, extra="text") as where:
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel, T5EncoderModel

        kind = AutoConfig.from_pretrained(**where).model_type
        cls = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel}.get(kind, AutoModel)
        model = cls.from_pretrained(**where, weights_only=True)
        apart = where if tokenizer is None else {**where, "pretrained_model_name_or_path": tokenizer}
        return AutoTokenizer.from_pretrained(**apart), align(model)


def width(encoder: torch.nn.Module) -> int:
    """Of its hidden states."""
    return getattr(encoder.config, "hidden_size", None) or encoder.config.d_model
