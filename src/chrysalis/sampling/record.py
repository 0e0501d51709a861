"""How images were generated: the record in settings.json and in every image, and its comparison with a folder's."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from chrysalis.system.errors import UserError
from chrysalis.system.files import shown, write_text
from chrysalis.system.records import all_public, leaves
from chrysalis.system.terminal import is_main_process

FILE = "settings.json"
# prefixes of settings that change no image: a stopped command may continue with other values of these
NO_EFFECT = ("batch_size.", "compile.", "trajectory_columns.", "trajectory.", "animation.")
NO_EFFECT += ("task.features.", "task.data.", "task.n_nearest.")


@dataclass(frozen=True)
class SamplingRecord:
    """How images were generated, and how to generate them again.

    settings: all that the images depend on. command, overrides: what composes the settings again. inputs: a digest of
    each file that the settings name. versions: by library. precision: what the UNet computes in, never `auto`.
    only_image: the name of the one image to generate; None for all.
    """

    settings: dict
    command: str
    overrides: list[str]
    inputs: dict[str, str]
    versions: dict[str, str]
    precision: str
    only_image: str | None = None

    @cached_property
    def _json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if name != "only_image"})

    def metadata(self, name: str) -> dict[str, str]:
        """The PNG text of the image of this name, from which `from=IMAGE.png` generates it again."""
        return {"image": name, "command": self.command, "record": self._json}

    def write(self, out: Path, result: dict | None = None) -> None:
        """Write settings.json. result: what the task found, such as distances."""
        content = json.loads(self._json)
        content |= {"only": self.only_image} if self.only_image is not None else {}
        content |= {"result": result} if result else {}
        write_text(out / FILE, json.dumps(content, indent=2) + "\n")

    def require_same_images(self, out: Path) -> None:
        """Raise UserError unless the folder is new, empty, or holds some of these very images."""
        if not is_main_process() or not out.is_dir() or not any(out.iterdir()):
            return
        try:
            before = all_public(json.loads((out / FILE).read_text(encoding="utf-8")))
            old, new = _compared(before), _compared(json.loads(self._json))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"out={shown(out)} already holds other files: choose another folder.") from None
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if not changed:
            return
        key, folder = changed[0], f"out={shown(out)}"
        if key in before["inputs"] and key not in self.inputs:
            raise UserError(f"{key} is missing, which {folder} depends on: restore it, or choose another folder.")
        was = f"from before {key} changed" if key in self.inputs else f"with {key}={old.get(key)}"
        raise UserError(f"{folder} holds images {was}: choose another folder.")


def _compared(record: dict) -> dict:
    """All that the images depend on, by key."""
    settings = {k: v for k, v in leaves(record["settings"]).items() if not f"{k}.".startswith(NO_EFFECT)}
    return {**settings, "trainer.precision": record["precision"], **record["inputs"]}
