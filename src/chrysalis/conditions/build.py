"""The conditioner of a training run: that of the loaded model, or a new one attached to an unconditional UNet."""

from collections.abc import Mapping
from typing import Any

from chrysalis.conditions.conditioner import Conditioner
from chrysalis.conditions.kind import Kind
from chrysalis.conditions.kinds import KINDS
from chrysalis.system.errors import UserError


def build_conditioner(unet: Any, known: Conditioner | None, kinds: Mapping[str, Kind], data: Any) -> Conditioner | None:
    """The conditioner to train; a new one is attached to the UNet in place.

    Args:
        unet: the UNet2DModel of the loaded model.
        known: conditioner of the loaded model, if it is conditional.
        kinds: the leaves of conf/condition, by name.
        data: the data module; its labels are numbered as the conditioner's.

    Returns:
        `known`, a new conditioner, or None where there is no condition.

    Raises:
        UserError: the data lacks what a kind needs, or a kind does not fit the loaded model.
    """
    parts = {} if known is None else known.parts
    loaded = {name: KINDS[name].of_part(part) for name, part in parts.items()}
    image_set, source = data.image_set, data.source.name
    for kind in {**kinds, **loaded}.values():
        kind.require(image_set, source)
    for name, part in parts.items():
        kinds.get(name, loaded[name]).require_part(part, image_set, source)
    new = {name: kind.settings(image_set, unet) for name, kind in kinds.items() if name not in parts}
    if parts and new:
        raise UserError(
            f"condition={','.join(new)} cannot be added to a model that is conditioned on {', '.join(parts)}: "
            "start from its base model."
        )
    if not parts and not new:
        return known
    made = known or Conditioner(new, unet.time_embedding.linear_2.out_features, unet.config.in_channels)
    made.attach(unet)
    for name, part in made.parts.items():
        {**loaded, **kinds}[name].prepare(part, data)
    return made


def describe(conditioner: Conditioner | None) -> dict[str, str]:
    """What the values of each condition of a model may be, for the model card."""
    parts = {} if conditioner is None else conditioner.parts
    return {name: KINDS[name].describe(part) for name, part in parts.items()}
