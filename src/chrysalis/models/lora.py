"""LoRA in, out, merged: small matrices beside frozen layers learn instead of the UNet (Hu et al. 2021, 2106.09685)."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from chrysalis.system.errors import UserError, require_whole
from chrysalis.system.files import written_folder

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")
NAME = "default"  # peft's own name for the only adapter
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # as PeftModel writes it; set_peft_model_state_dict takes it off again


class LoRA:
    """W x becomes W x + (alpha / rank) B A x, with A [rank, in] random, B [out, rank] zero; only A and B learn.

    Of a k x k convolution A is one too, to `rank` channels, and B is 1 x 1. alpha: None for `rank`, a scale of 1.
    targets: the ends of layers' names. dropout: of what A sees, in training.
    merge: whether an export holds merged weights, or the base's weights and a lora/ folder.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        targets: Sequence[str] = TARGETS,
        dropout: float = 0.0,
        merge: bool = True,
    ):
        require_whole("adapter.rank", rank)
        if alpha is not None and not (_number(alpha) and 0 < alpha < float("inf")):
            raise UserError(f"adapter.alpha={alpha} must be a number above 0, or null for adapter.rank.")
        if isinstance(targets, str) or not isinstance(targets, Sequence) or {type(t) for t in targets} != {str}:
            raise UserError(f"adapter.targets={targets} must be a list of layer names, such as {list(TARGETS)}.")
        if not (_number(dropout) and 0 <= dropout < 1):
            raise UserError(f"adapter.dropout={dropout} must be a number from 0 to below 1.")
        if not isinstance(merge, bool):
            raise UserError(f"adapter.merge={merge} must be true or false.")
        self.rank, self.alpha = rank, rank if alpha is None else alpha
        self.targets, self.dropout, self.merge = tuple(targets), dropout, merge

    def inject(self, unet: UNet2DModel) -> UNet2DModel:
        """Put the matrices in, in place, and freeze all else; until a step is made, the outputs stay to the bit."""
        if injected(unet):
            raise UserError("adapter: this UNet already carries a LoRA, and a second one cannot be put in.")
        self._require_layers(unet)
        settings = {"r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout}
        return _inject(unet, _peft().LoraConfig(**settings, target_modules=list(self.targets)))

    def _require_layers(self, unet: nn.Module) -> None:
        """Refuse a target that names no layer, or names more than layers; a default one may be one of another UNet.

        A conv_in that a condition has widened is no such layer: it learns anyway.
        """
        is_layer = {f".{name}": type(m) in (nn.Linear, nn.Conv2d) for name, m in unet.named_modules()}
        named = {t: [layer for name, layer in is_layer.items() if name.endswith(f".{t}")] for t in self.targets}
        found = [target for target, layers in named.items() if layers and all(layers)]
        wrong = [target for target in self.targets if target not in found and target not in TARGETS]
        if wrong or not found:
            kinds = {re.search(r"[^.]+(\.\d+)?$", name)[0] for name, layer in is_layer.items() if layer}
            raise UserError(
                f"adapter.targets: no Linear or Conv2d layer is named {' or '.join(wrong or self.targets)}; "
                f"this UNet has {', '.join(sorted(kinds))}."
            )


def none() -> None:
    """No adapter: the UNet's own weights learn."""


def injected(unet: nn.Module) -> bool:
    return bool(getattr(unet, "peft_config", None))


def plain(unet: UNet2DModel) -> UNet2DModel:
    """A copy with no adapter and the same outputs, W + (alpha / rank) B A for W; its parameters all learn."""
    return _stock(unet, merge=True)


def base(unet: UNet2DModel) -> UNet2DModel:
    """A copy with no adapter and the weights that the adapter was put beside, to the bit; its parameters all learn."""
    return _stock(unet, merge=False)


def save(unet: UNet2DModel, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors as peft writes them; the folder is complete or absent."""
    own = _peft().get_peft_model_state_dict(unet).items()
    weights = {PREFIX + name: weight.detach().cpu().contiguous() for name, weight in own}
    with written_folder(folder) as partial:
        unet.peft_config[NAME].save_pretrained(str(partial))
        save_file(weights, partial / WEIGHTS, metadata={"format": "pt"})


def load(unet: UNet2DModel, folder: Path) -> UNet2DModel:
    """Put a saved adapter in, in place and not merged, with all else frozen."""
    peft, folder = _peft(), Path(folder)
    if not (folder / WEIGHTS).is_file() or not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} is no LoRA folder: adapter_config.json and {WEIGHTS} are needed in it.")
    weights = load_file(folder / WEIGHTS)
    if not all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in weights):
        raise UserError(f"{folder} holds more than LoRA's A and B matrices, and nothing else can be used.")
    try:
        _inject(unet, peft.LoraConfig.from_pretrained(str(folder)))
        peft.set_peft_model_state_dict(unet, weights)
        if {name.removeprefix(PREFIX) for name in weights} != set(peft.get_peft_model_state_dict(unet)):
            raise ValueError("other layers")
    except (ValueError, RuntimeError) as error:  # peft's own: names that are not there, shapes that differ
        raise UserError(f"{folder} is a LoRA of another UNet than this one.") from error
    return unet


def _inject(unet: nn.Module, config) -> nn.Module:
    return _peft().inject_adapter_in_model(config, unet).train(unet.training)  # peft makes its layers in training mode


def _stock(unet: UNet2DModel, merge: bool) -> UNet2DModel:
    """A new UNet2DModel of the same config with copied weights: a deepcopy would copy the owners of hooks too."""
    weights = {
        name.replace(".base_layer.", "."): weight.detach().clone()
        for name, weight in unet.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in unet.named_modules() if merge else ():
        if hasattr(module, "lora_A"):
            # In float64 on the CPU: a GPU may multiply in TF32, and Apple's have no float64
            a, b = (m[NAME].weight.detach().cpu().double().flatten(1) for m in (module.lora_A, module.lora_B))
            w = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = (w.cpu().double() + module.scaling[NAME] * (b @ a).view(w.shape)).to(w)
    # Of what is listed there from_config takes the default, though it may have been registered anew
    config = {key: value for key, value in unet.config.items() if key != "_use_default_values"}
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
        copy = UNet2DModel.from_config(config).to(unet.device)
    copy.load_state_dict(weights, assign=True)  # keeps each weight's own dtype
    return copy.train(unet.training)


def _peft():
    try:
        import peft
    except ImportError:
        raise UserError("adapter=lora needs peft: pip install 'chrysalis[lora]'.") from None
    return peft


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
