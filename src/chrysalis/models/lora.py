"""LoRA: small matrices beside frozen layers are trained instead of the UNet (Hu et al. 2021, arXiv 2106.09685)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from chrysalis.system.errors import UserError
from chrysalis.system.files import written_folder
from chrysalis.system.ranges import Channels, FractionBelow1, PositiveNumber

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")
NAME = "default"  # peft's own name for the only adapter
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # as PeftModel writes it; set_peft_model_state_dict removes it


@dataclass
class LoRA:
    """Settings of a LoRA: W x becomes W x + (alpha / rank) B A x, with A [rank, in] random and B [out, rank] zero.

    Only A and B are trained. Beside a k x k convolution, A is a k x k convolution to `rank` channels and B a 1 x 1 one.
    """

    rank: Channels = 8  # number of rows of A
    alpha: PositiveNumber | None = None  # None for `rank`, a scale of 1
    targets: Sequence[str] = TARGETS  # ends of the names of the layers
    dropout: FractionBelow1 = 0.0  # probability that training drops an input of A
    merge: bool = True  # whether an export holds merged weights, or the base's weights and a lora/ folder

    def __post_init__(self):
        self.alpha = self.rank if self.alpha is None else self.alpha
        self.targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)

    def inject(self, unet: UNet2DModel) -> UNet2DModel:
        """Add the matrices in place and freeze all else; before the first step the outputs are the same to the bit."""
        if injected(unet):
            raise UserError("adapter=lora: this model already has a LoRA. Use adapter=none to train that one.")
        self._require_layers(unet)
        peft = _peft()
        how: Any = {"r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout}
        peft.inject_adapter_in_model(peft.LoraConfig(target_modules=list(self.targets), **how), unet)
        return unet.train(unet.training)  # peft makes its layers in training mode

    def _require_layers(self, unet: nn.Module) -> None:
        """Refuse targets that match no Linear or Conv2d layer, or other modules; a UNet may lack default targets."""
        is_layer = {f".{name}": type(m) in (nn.Linear, nn.Conv2d) for name, m in unet.named_modules()}
        named = {t: [layer for name, layer in is_layer.items() if name.endswith(f".{t}")] for t in self.targets}
        found = [target for target, layers in named.items() if layers and all(layers)]
        wrong = [target for target in self.targets if target not in found and target not in TARGETS]
        if wrong or not found:
            kinds = {re.findall(r"[^.]+(?:\.\d+)?$", name)[0] for name, layer in is_layer.items() if layer}
            raise UserError(
                f"adapter.targets: no Linear or Conv2d layer is named {' or '.join(wrong or self.targets)}: "
                f"choose from {', '.join(sorted(kinds))}."
            )


def none() -> None:
    """Return no adapter: the UNet's own weights are trained."""


def injected(unet: nn.Module) -> bool:
    """Whether the UNet has a LoRA beside its layers."""
    return bool(getattr(unet, "peft_config", None))


def plain(unet: UNet2DModel, merge: bool = True) -> UNet2DModel:
    """Return a stock UNet without LoRA and with copied weights, all trainable.

    merge: W + (alpha / rank) B A instead of W, for the same outputs; else the base model's W, unchanged.
    """
    weights = {
        name.replace(".base_layer.", "."): weight.detach().clone()
        for name, weight in unet.state_dict().items()
        if ".lora_" not in name
    }
    layers: dict[str, Any] = {name: m for name, m in unet.named_modules() if hasattr(m, "lora_A")} if merge else {}
    for name, layer in layers.items():
        # In float64 on the CPU: a GPU may multiply in TF32, and Apple's have no float64
        a, b = (m[NAME].weight.detach().cpu().double().flatten(1) for m in (layer.lora_A, layer.lora_B))
        w = weights[f"{name}.weight"]
        weights[f"{name}.weight"] = (w.cpu().double() + layer.scaling[NAME] * (b @ a).view(w.shape)).to(w)
    # from_config resets the settings that are listed there to their defaults, even those that were changed later
    config = {key: value for key, value in unet.config.items() if key != "_use_default_values"}
    with torch.random.fork_rng(devices=[]):  # random initial weights, which are replaced
        stock: Any = type(unet).from_config(config)  # not deepcopy, which would copy the objects that hooks refer to
    stock.to(unet.device).load_state_dict(weights, assign=True)  # keeps each weight's own dtype
    return stock.train(unet.training)


def weights(unet: Any) -> dict[str, torch.Tensor]:
    """The matrices of a UNet's LoRA, by the names that peft gives them."""
    return {name: w.detach().cpu().contiguous() for name, w in _peft().get_peft_model_state_dict(unet).items()}


def settings(unet: Any) -> dict:
    """The settings of a UNet's LoRA, as peft writes them into JSON."""
    return {k: sorted(v) if isinstance(v, set) else v for k, v in unet.peft_config[NAME].to_dict().items()}


def save(unet: UNet2DModel, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors as peft does; the folder is complete or absent."""
    named = {PREFIX + name: weight for name, weight in weights(unet).items()}
    with written_folder(folder) as partial:
        unet.peft_config[NAME].save_pretrained(str(partial))
        save_file(named, partial / WEIGHTS, metadata={"format": "pt"})


def load(unet: UNet2DModel, folder: Path) -> UNet2DModel:
    """Add a saved LoRA in place, unmerged, and freeze all else; raises UserError for one of another UNet."""
    peft = _peft()
    if not (folder / WEIGHTS).is_file() or not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} is not a LoRA folder: it needs adapter_config.json and {WEIGHTS}.")
    weights = load_file(folder / WEIGHTS)
    if not all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in weights):
        raise UserError(f"{folder} holds more than LoRA's A and B matrices: save these alone.")
    try:
        peft.inject_adapter_in_model(peft.LoraConfig.from_pretrained(str(folder)), unet)
        peft.set_peft_model_state_dict(unet, weights)
        if {name.removeprefix(PREFIX) for name in weights} != set(peft.get_peft_model_state_dict(unet)):
            raise ValueError("other layers")
    except (ValueError, RuntimeError) as error:  # peft's own, for missing names or other shapes
        raise UserError(f"{folder} is the LoRA of another UNet: replace it with one trained on this UNet.") from error
    return unet.train(unet.training)


def _peft():
    try:
        import peft
    except ImportError:
        raise UserError("adapter=lora needs peft: pip install 'chrysalis[lora]'.") from None
    return peft
