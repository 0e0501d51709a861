"""Faster starts: importing Lightning and diffusers without unused libraries, and keeping what torch compiles."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path


def import_libraries(pretrained: str | None = None) -> None:
    """Import Lightning and diffusers, without the optional libraries that they import wherever these are installed.

    torchmetrics (for Lightning) imports transformers, scipy and matplotlib, diffusers imports transformers and peft:
    1.9 of 6.6 CPU seconds of imports. They can be imported as usual afterwards; but diffusers then takes transformers
    and peft for missing as long as the process lives, and its text-to-image pipelines cannot be saved.

    Args:
        pretrained: the model that the process works with. If it may be a text-to-image model, diffusers is imported
            with all of them.
    """
    with _hidden("transformers", "scipy", "matplotlib"):
        import lightning  # noqa: F401
    with _hidden(*(() if pretrained and _may_have_text_encoder(pretrained) else ("transformers", "peft"))):
        from diffusers import DDPMScheduler, UNet2DModel  # noqa: F401


def _may_have_text_encoder(pretrained: str) -> bool:
    """Whether a model folder or run has a text_encoder/; True for what is no folder, such as a hub id."""
    from chrysalis.system.files import REPOSITORY

    folders = [place / pretrained for place in (Path(), Path("runs"), REPOSITORY) if (place / pretrained).is_dir()]
    return not folders or any((folders[0] / part / "text_encoder").is_dir() for part in ("", "pipeline"))


def keep_compiled() -> None:
    """Keep what torch compiles in the cache folder, instead of a temporary one; must run before torch is imported."""
    from chrysalis.system.files import cache_folder

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))


@contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Make packages that are not imported yet look as if they were not installed."""
    from lightning_utilities.core import imports

    def version(distribution_name: str) -> str:
        if distribution_name in new:
            raise PackageNotFoundError(distribution_name)
        return real(distribution_name)

    new = [name for name in packages if name not in sys.modules]
    real, imports._version = imports._version, version
    for name in new:
        sys.modules[name] = None  # pyrefly: ignore[unsupported-operation] -- import raises, find_spec finds nothing
    try:
        yield
    finally:
        imports._version = real
        for name in new:
            del sys.modules[name]
