"""Frozen text encoders of transformers, by folder or hub id."""

from pathlib import Path

import torch

from chrysalis import hub
from chrysalis.errors import UserError


def load(name: str, key: str = "condition.text.encoder", tokenizer: str | None = None) -> tuple:
    """(tokenizer, text encoder): CLIP's text half, T5's encoder, BERT ...; safetensors only, and no code of theirs.

    tokenizer: where it lies, if not in the same place. key: what the user set it by.
    """
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel, T5EncoderModel
    except ImportError as error:
        raise UserError(f"{key} needs transformers: pip install 'chrysalis[text]'.") from error
    local = Path(name).expanduser().is_dir()
    if not local and (str(name).startswith((".", "/", "~")) or str(name).count("/") > 1):
        raise UserError(f"{key}={name} is neither a folder nor a hub id like openai/clip-vit-large-patch14.")
    where, offline = (str(Path(name).expanduser()), True) if local else (name, hub.unreachable())
    try:
        kind = AutoConfig.from_pretrained(where, local_files_only=offline).model_type
        cls = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel}.get(kind, AutoModel)
        model = cls.from_pretrained(where, local_files_only=offline, use_safetensors=True)
        return AutoTokenizer.from_pretrained(tokenizer or where, local_files_only=offline), model
    except Exception as error:  # transformers and the hub's client raise dozens of kinds
        why = "there is no network" if offline and not local else str(error).strip().splitlines()[0][:200]
        raise UserError(f"{key}={name} could not be loaded: {why}") from error


def width(encoder: torch.nn.Module) -> int:
    """Of its hidden states."""
    return getattr(encoder.config, "hidden_size", None) or encoder.config.d_model
