"""Importing Lightning and diffusers without what they would bring along and training never uses."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError


def import_libraries() -> None:
    """Import both now. Wherever they are installed, torchmetrics (of Lightning) would import transformers, scipy and
    matplotlib, and diffusers would import transformers and peft: a third of the time until the first step.

    What is left out here can be imported afterwards as ever. diffusers then takes transformers and peft for missing,
    which concerns its text-to-image pipelines and LoRA loaders; this project uses the two libraries themselves.
    """
    with hidden("transformers", "scipy", "matplotlib"):
        import lightning  # noqa: F401
    with hidden("transformers", "peft"):
        from diffusers import DDPMScheduler, UNet2DModel  # noqa: F401


def keep_compiled() -> None:
    """What torch compiles is kept; its own default is a temporary folder. To be called before torch is imported."""
    from chrysalis.system.files import cache_folder

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Inside, packages that are not imported yet look as if they were not installed."""
    from lightning_utilities.core import imports

    def version(name: str) -> str:
        if name in packages:
            raise PackageNotFoundError(name)
        return real(name)

    packages = [name for name in packages if name not in sys.modules]
    real, imports._version = imports._version, version
    sys.modules.update(dict.fromkeys(packages))  # None: import raises, and find_spec finds nothing
    try:
        yield
    finally:
        imports._version = real
        for name in packages:
            del sys.modules[name]
