"""python -m benchmarks.gpu: runs without an installed Chrysalis, and names missing packages."""

import time

BEGAN = time.perf_counter()

import importlib.util  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
# {package: module} of what the parts import
IMPORTED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "lightning": "lightning",
    "torchmetrics": "torchmetrics",
    "hydra-core": "hydra",
    "diffusers": "diffusers",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pillow": "PIL",
    "platformdirs": "platformdirs",
    "filelock": "filelock",
    "rich": "rich",
    "scipy": "scipy",
    "imageio": "imageio",
    "jinja2": "jinja2",
}


def missing(imported: dict[str, str] = IMPORTED) -> str | None:
    """A sentence that names the packages that cannot be imported; None if there are none."""
    absent = [package for package, name in imported.items() if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    noun = "packages are" if len(absent) > 1 else "package is"
    return (
        f"{len(absent)} {noun} missing from {sys.executable}: python -m pip install {' '.join(absent)}, or `make gpu`, "
        "which installs everything into .venv."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    for folder in (REPOSITORY / "src", REPOSITORY):  # train.py and sample.py are in the second
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    if sentence := missing():
        print(sentence, file=sys.stderr)
        return 2
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported
    from benchmarks.gpu.program import main as program

    return program(arguments, began=BEGAN)


if __name__ == "__main__":
    sys.exit(main())
