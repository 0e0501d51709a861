"""What all sides train on where nobody gave anything."""

from pathlib import Path

from PIL import Image

from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.system.terminal import say

IMAGES = 583  # as many as the photographs that figures are otherwise measured on
DRAWN, SIZE = 64, 256  # drawn at 64 px, which takes a fourteenth of the time, and enlarged: files as costly to decode


def images(scratch: Path, kept: Path) -> Path:
    """A folder of drawn butterflies as JPEG files. The decoded set itself stays in the user's cache folder."""
    say(f"no --data and no CHRYSALIS_PHOTOGRAPHS: {IMAGES} drawn butterflies (drawn once, kept in {kept})")
    folder = scratch / "images"
    folder.mkdir()
    for i, image in enumerate(open_set(DrawnSource("butterflies", IMAGES), (DRAWN, DRAWN), "crop").images):
        large = Image.fromarray(image.transpose(1, 2, 0)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        large.save(folder / f"{i:04d}.jpg", quality=90)
    return folder
