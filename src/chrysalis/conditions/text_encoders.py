"""Text encoders of transformers, loaded from a folder or hub id to stay frozen."""

from chrysalis.system import hub
from chrysalis.system.memory import align


def load(name: str, key: str = "condition.text.encoder", tokenizer: str | None = None) -> tuple:
    """Load (tokenizer, text encoder): CLIP's, T5's, BERT ...; no code of the repository is run.

    name: folder or hub id. key: what the user set it by, for messages. tokenizer: its folder; None for the encoder's.
    """
    setting, like = f"{key}={name}", "openai/clip-vit-large-patch14"
    with hub.transformers_source(setting, name, "a text encoder", like, extra="text") as where:
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel, T5EncoderModel

        architecture = AutoConfig.from_pretrained(**where).model_type
        text_halves = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel}
        cls = text_halves.get(architecture, AutoModel)
        model = cls.from_pretrained(**where, weights_only=True)
        apart = where if tokenizer is None else {**where, "pretrained_model_name_or_path": tokenizer}
        return AutoTokenizer.from_pretrained(**apart), align(model)
