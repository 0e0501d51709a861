"""Loading of a model by its hub id, over the network only where the local cache does not suffice."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from chrysalis.models import families
from chrysalis.models.layout import Layout, find_weights
from chrysalis.models.location import BUNDLED
from chrysalis.models.model import Model
from chrysalis.system import hub
from chrysalis.system.errors import UserError


def load(hub_id: str, argument: str, subfolder: str | None, variant: str | None, revision: str | None) -> Model:
    """Load OWNER/NAME; the network is used only where the local cache does not suffice."""
    fetch = partial(_fetch, hub_id, argument, subfolder, variant, revision)
    try:
        return fetch(only_cached=True)
    except Exception as error:  # a UserError too, such as for an incomplete cache
        if hub.unreachable() and isinstance(error, UserError):
            raise
    try:
        return fetch(only_cached=False)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises dozens of kinds
        why = hub.why(error, hub_id, revision=revision)
        offline = f" The offline default is model.pretrained={BUNDLED}." if hub.unreachable() else ""
        raise UserError(f"{argument} could not be fetched from the hub: {why}.{offline}") from error


def _fetch(
    hub_id: str, argument: str, subfolder: str | None, variant: str | None, revision: str | None, only_cached: bool
) -> Model:
    with hub.quiet():
        # 1. Its configuration: weights of another family may be gigabytes
        folder = hub.snapshot(hub_id, hub.SETTINGS, only_cached, revision)
        family, layout = families.recognize(folder, argument, subfolder)
        layout.scheduler_file()
        # 2. The one kind of weights that is needed
        weights = layout.weights(variant, _weight_names(hub_id, layout, layout.unet_at, variant, only_cached))
        wanted = [layout.unet_at / name for name in weights.names]
        for at in family.other_weights(layout):
            names = _weight_names(hub_id, layout, at, weights.variant, only_cached)
            wanted += [at / name for name in layout.weights(weights.variant, names, at).names]
        wanted = [file.relative_to(folder).as_posix() for file in wanted]
        folder = hub.snapshot(hub_id, [*hub.SETTINGS, *hub.ADDED_PARTS, *wanted], only_cached, revision)
        # 3. The model, as from any folder
        model = families.load(folder, argument, subfolder, variant)
        return replace(model, origin=f"{hub_id}@{revision}" if revision else hub_id)


def _weight_names(hub_id: str, layout: Layout, at: Path, variant: str | None, only_cached: bool) -> list[str]:
    """List the file names in the folder `at` that a model's weights can be chosen from."""
    listed = hub.listing(hub_id, layout.folder, only_cached)
    if listed is not None:
        inside = at.relative_to(layout.folder)
        return [Path(name).name for name in listed if Path(name).parent == inside]
    cached = [file.name for file in at.iterdir()]
    exact = [name for name in cached if any(w.variant == variant for w in find_weights([name]))]
    return exact if exact or not hub.unreachable() else cached  # the hub may have the variant that is not cached
