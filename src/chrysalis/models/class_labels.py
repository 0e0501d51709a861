"""UNets with class labels of their own: their class embedding becomes a label condition, which can be fine-tuned."""

from typing import Any

import torch
from torch import nn

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.models.layout import Layout
from chrysalis.system.errors import UserError


def as_condition(unet: Any, layout: Layout) -> Conditioner | None:
    """Move a UNet's class embedding into a conditioner whose label condition adds the same; None without one.

    In both, a vector of the label is added to the timestep embedding. The names are those of `id2label` in
    model_index.json or the UNet's config.json, else the numbers from 0. The null, which such a UNet need not have been
    trained for, is the mean over all labels. A class_embed_type of `identity` has no table: the UNet is then loaded
    with a vector of zeros, as an unconditional one.
    """
    kind, count = unet.config["class_embed_type"], unet.config["num_class_embeds"]
    if unet.class_embedding is None:
        return None
    named = layout.index.get("id2label") or layout.unet.get("id2label") or {}
    names = [str(named.get(str(i), i)) for i in range(count or len(named))]
    embedding, conditioner = unet.class_embedding, None
    if kind != "identity":
        if not names:
            raise UserError(
                f"{layout.argument} has class_embed_type={kind} and does not say how many labels: add num_class_embeds "
                "or id2label to its config.json."
            )
        conditioner = _conditioner(unet, embedding, names)
    unet.class_embedding = None
    unet.register_to_config(class_embed_type=None, num_class_embeds=None)
    return conditioner


@torch.no_grad()
def _conditioner(unet: Any, embedding: nn.Module, names: list[str]) -> Conditioner:
    width = unet.time_embedding.linear_2.out_features
    conditioner = Conditioner({"label": {"names": names, "dim": width}}, width)
    part: Any = conditioner.parts["label"]
    labels = torch.arange(len(names))
    inputs = labels if isinstance(embedding, nn.Embedding) else unet.time_proj(labels).to(unet.dtype)
    vectors = embedding(inputs)
    part.table.weight.copy_(torch.cat([vectors, vectors.mean(0, keepdim=True)]))
    part.out.weight.copy_(torch.eye(width))
    return conditioner
