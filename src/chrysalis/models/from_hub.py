"""Loading of a model by its hub id, over the network only where the local cache does not suffice."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from chrysalis.models import families
from chrysalis.models.layout import Layout, Selection, find_weights
from chrysalis.models.location import BUNDLED
from chrysalis.models.model import Model
from chrysalis.system import hub
from chrysalis.system.errors import UserError

T = TypeVar("T")


def load(hub_id: str, selection: Selection, revision: str | None) -> Model:
    """Load OWNER/NAME; the network is used only where the local cache does not suffice."""
    return _cached_first(partial(_fetch, hub_id, selection, revision), hub_id, selection.argument, revision)


def scheduler_folder(hub_id: str, argument: str, revision: str | None) -> Path:
    """Return the local folder with the configuration files of OWNER/NAME."""
    fetch = partial(hub.snapshot, hub_id, hub.SETTINGS, revision=revision)
    return _cached_first(fetch, hub_id, argument, revision)


def _cached_first(fetch: Callable[..., T], hub_id: str, argument: str, revision: str | None) -> T:
    """Call fetch(only_cached=True), and with False if that fails; raises UserError with the cause."""
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


def _fetch(hub_id: str, selection: Selection, revision: str | None, only_cached: bool) -> Model:
    with hub.quiet():
        # 1. Its configuration: weights of another family may be gigabytes
        folder = hub.snapshot(hub_id, hub.SETTINGS, only_cached, revision)
        family, layout = families.recognize(folder, selection)
        layout.scheduler_file()
        # 2. The one kind of weights that is needed
        names = _weight_names(hub_id, layout, layout.unet_at, selection.variant, only_cached)
        weights = layout.weights(selection.variant, names)
        wanted = [layout.unet_at / name for name in weights.names]
        for at in family.other_weights(layout):
            names = _weight_names(hub_id, layout, at, weights.variant, only_cached)
            wanted += [at / name for name in layout.weights(weights.variant, names, at).names]
        wanted = [file.relative_to(folder).as_posix() for file in wanted]
        wanted += _text_encoder_files(hub.listing(hub_id, folder, only_cached))
        folder = hub.snapshot(hub_id, [*hub.SETTINGS, *hub.ADDED_PARTS, *wanted], only_cached, revision)
        # 3. The model, as from any folder
        model = families.load(folder, selection)
        return replace(model, origin=f"{hub_id}@{revision}" if revision else hub_id)


def _text_encoder_files(listed: list[str] | None) -> list[str]:
    """The weights of text_encoder/ in one format, without variants; a pattern for all where no listing is known."""
    if listed is None:
        return ["text_encoder/*"]
    weights = (r"text_encoder/model(-\d+-of-\d+)?\.safetensors", r"text_encoder/pytorch_model(-\d+-of-\d+)?\.bin")
    found = [[name for name in listed if re.fullmatch(pattern, name)] for pattern in weights]
    return next(filter(None, found), ["text_encoder/*"])


def _weight_names(hub_id: str, layout: Layout, at: Path, variant: str | None, only_cached: bool) -> list[str]:
    """List the file names in the folder `at` that a model's weights can be chosen from."""
    listed = hub.listing(hub_id, layout.folder, only_cached)
    if listed is not None:
        inside = at.relative_to(layout.folder)
        return [Path(name).name for name in listed if Path(name).parent == inside]
    cached = [file.name for file in at.iterdir()]
    exact = [name for name in cached if any(w.variant == variant for w in find_weights([name]))]
    return exact if exact or not hub.unreachable() else cached  # the hub may have the variant that is not cached
