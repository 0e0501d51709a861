"""Where a model is: a folder, a run, a bundled model or a hub id; and what it was fine-tuned from."""

import difflib
import re
from contextlib import suppress
from pathlib import Path

import yaml

from chrysalis.models.layout import WEIGHTS_FILE
from chrysalis.system import hub
from chrysalis.system.errors import UserError, require_path
from chrysalis.system.files import REPOSITORY, shown

BUNDLED = "assets/insects-128"
EXAMPLE = "google/ddpm-celebahq-256"
CONVERT = (
    " If you trust it, load it with diffusers (UNet2DModel.from_pretrained(FOLDER, use_safetensors=False)) and let "
    "save_pretrained write it as safetensors."
)


def locate(pretrained: str, key: str = "model.pretrained") -> Path | str:
    """Return the folder of a path, a bundled model or a run (its pipeline/), or else the hub id.

    Raises UserError for anything else. key: the configuration key, for messages.
    """
    given, argument = require_path(key, pretrained), f"{key}={pretrained}"
    for path in (given, "runs" / given, REPOSITORY / given):
        if path.is_dir():
            if (path / "pipeline" / "model_index.json").is_file():
                return path / "pipeline"
            if (path / "config.yaml").is_file() and not any((path / n).exists() for n in ("unet", "config.json")):
                resume = f"resume={shown(path)}"
                raise UserError(f"{argument} is a run that has exported no model yet: {resume} finishes it.")
            return path
    if given.suffix == ".ckpt" and given.parent.name == "checkpoints":
        raise UserError(
            f"{argument} is a checkpoint, and a model is a folder: give the run's, {shown(given.parent.parent)}. "
            "A checkpoint can be given as guidance.autoguidance.checkpoint."
        )
    if given.exists():
        can_run_code = given.suffix in (".bin", ".ckpt", ".pt", ".pth") and not WEIGHTS_FILE.fullmatch(given.name)
        hint = CONVERT if can_run_code else ""
        raise UserError(f"{argument} is a file: give the diffusers folder that holds it.{hint}")
    hub_id, _ = hub.split_revision(str(pretrained))
    if hub_id.startswith((".", "/", "~", "runs/", "assets/")) or hub_id.count("/") != 1:
        if similar := _most_similar(given):
            raise UserError(f"{argument} does not exist. Did you mean {similar}?")
        raise UserError(f"{argument} is neither a folder nor a hub id like {EXAMPLE}: correct it, or use {BUNDLED}.")
    return pretrained


def _most_similar(given: Path) -> str | None:
    """Return the folder most like the name of one that does not exist: beside it, or among the runs for a bare name."""
    for path in (given, *(place / given for place in (Path("runs"), REPOSITORY) if not given.is_absolute())):
        folders = [folder.name for folder in path.parent.glob("*/")] if path.parent.is_dir() else []
        if len(given.parts) > 1 or path.parent == Path("runs"):
            for name in difflib.get_close_matches(path.name, folders, 1):
                return str(given.with_name(name) if len(given.parts) > 1 else name)
    return None


def newest_pipeline() -> str:
    """Return the newest run's pipeline below ./runs, or the bundled model."""
    found = sorted(Path("runs").glob("**/pipeline/model_index.json"), key=lambda p: p.stat().st_mtime)
    return str(found[-1].parent) if found else BUNDLED


def base_of(origin: str | None) -> str | None:
    """Return what a model folder was fine-tuned from, by its card, or for a local base by its run's config.yaml."""
    folder = Path(origin or "")
    card, config = folder / "README.md", folder.parent / "config.yaml"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        for line in (r"^base_model: (.+)$", r"^A diffusion UNet fine-tuned from `(assets/[\w.-]+)`"):
            if found := re.search(line, text, re.MULTILINE):
                revision = re.search(r"^base_model_revision: (.+)$", text, re.MULTILINE)
                return found[1].strip() + (f"@{revision[1].strip()}" if revision is not None else "")
    if folder.name == "pipeline" and config.is_file():
        with suppress(yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError):
            return yaml.safe_load(config.read_text(encoding="utf-8"))["model"].get("pretrained")
    return None
