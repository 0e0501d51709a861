"""The images that all sides train on by default."""

from pathlib import Path

from PIL import Image

from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.system.terminal import say

IMAGES = 583  # as many as the photographs of the published figures
DRAWN, SIZE = 64, 256  # drawn at 64 px and enlarged: a fourteenth of the time, as costly to decode


def images(scratch: Path, cache: Path) -> Path:
    """Write drawn butterflies as JPEG files; the decoded set itself stays in the user's cache folder."""
    say(f"no --data and no CHRYSALIS_PHOTOGRAPHS: {IMAGES} drawn butterflies (cached in {cache})")
    folder = scratch / "images"
    folder.mkdir()
    for i, image in enumerate(open_set(DrawnSource("butterflies", IMAGES), (3, DRAWN, DRAWN), "crop").images):
        large = Image.fromarray(image.transpose(1, 2, 0)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        large.save(folder / f"{i:04d}.jpg", quality=90)
    return folder
