"""The procedurally drawn datasets. They need no files and no network."""

from chrysalis.data.datamodule import ImageDataModule
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.system.ranges import DrawnImages


def drawn_data(domain: str = "butterflies", n: DrawnImages = 1000, **loading) -> ImageDataModule:
    """Build the data module of a drawn dataset, see DrawnSource. loading: see ImageDataModule."""
    return ImageDataModule(DrawnSource(domain, n), **loading)
