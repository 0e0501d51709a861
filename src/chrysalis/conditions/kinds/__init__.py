"""The condition kinds, one file each (a new one needs no registration), and the conditioner that they need."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kind import KINDS, Kind
from chrysalis.system.errors import UserError

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def kinds_of(conditioner: Conditioner | None) -> dict[str, Kind]:
    """The kinds of a model's conditions, bound to their parts; empty for an unconditional model."""
    parts = {} if conditioner is None else conditioner.parts
    return {name: KINDS[name].of_part(part) for name, part in parts.items()}


def build_conditioner(unet: Any, known: Conditioner | None, kinds: Mapping[str, Kind], data: Any) -> Conditioner | None:
    """Return the conditioner of the loaded model, or attach a new one to an unconditional UNet in place.

    unet, known: the loaded model's. kinds: those that the configuration chooses, by name. data: the data module; its
    labels are renumbered to match the conditioner. Raises UserError if the data lacks what a kind needs, or a kind does
    not fit the loaded model.
    """
    loaded = kinds_of(known)
    image_set, source = data.image_set, data.source.name
    for kind in {**kinds, **loaded}.values():
        kind.require(image_set, source)
    for name, own in loaded.items():
        kinds.get(name, own).require_match(own.part, image_set, source)
    new = {name: kind.settings(image_set, unet) for name, kind in kinds.items() if name not in loaded}
    if (factor := data.codec.factor) > 1:
        new |= {name: {**settings, "factor": factor} for name, settings in new.items() if kinds[name].reads_files}
    if loaded and new:
        raise UserError(
            f"condition={','.join(new)} cannot be added to a model that is conditioned on {', '.join(loaded)}: "
            "start from its base model."
        )
    if not loaded and not new:
        return None
    made = known or Conditioner(new, unet.time_embedding.linear_2.out_features)
    for name, part in made.parts.items():
        kind = {**loaded, **kinds}[name]
        kind.part = part
        kind.prepare(data, made)
    made.attach(unet)
    return made
