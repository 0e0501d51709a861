"""The drawn domains as a data source. Worker processes import this module, so it does not import Lightning."""

from pathlib import Path

from PIL import Image

from chrysalis.data.source import Example, Source, content_hash
from chrysalis.data.synthetic import domains
from chrysalis.data.transforms import Resize, Shape, mask_to_training_size, to_training_size
from chrysalis.system.errors import UserError
from chrysalis.system.ranges import DrawnImages, Seed


class DrawnSource(Source):
    """`n` images of a drawn domain: butterflies, moths, flowers, insects, or `all`, the first three in turn.

    A row's vector is the mean color of its subject: red, green and blue, from 0 to 1.
    """

    value_names = {"vector": ("red", "green", "blue")}  # noqa: RUF012 -- read-only
    synthetic = True

    def __init__(self, domain: str = "butterflies", n: DrawnImages = 1000, seed: Seed = 0):
        if domain not in (*domains.DOMAINS, "all"):
            raise UserError(f"data.domain={domain} is unknown: choose one of {', '.join(domains.DOMAINS)}, all.")
        self.domains = list(domains.SPECIES) if domain == "all" else [domain]
        self.name, self.domain, self.n, self.seed = f"drawn {', '.join(self.domains)}", domain, n, seed

    def __len__(self) -> int:
        return self.n

    def fingerprint(self) -> str:
        code = b"".join(file.read_bytes() for file in sorted(Path(domains.__file__).parent.glob("*.py")))
        return f"drawn {self.domain} {self.n} {self.seed} {content_hash(code)}"

    def _domain(self, i: int) -> str:
        return self.domains[i % len(self.domains)]

    def row_name(self, i: int) -> str:
        return f"{self._domain(i)} {i}"

    def read(self, i: int, shape: Shape, resize: Resize) -> Example:
        domain, size = self._domain(i), shape[1:]
        drawn = domains.draw(domain, i, self.seed, max(size))
        image = to_training_size(Image.fromarray(drawn.image), shape, resize)
        mask = mask_to_training_size(Image.fromarray(drawn.mask), size, resize)
        subject = image[:, mask[0] > 0]
        columns = {
            "label": domains.species_names(domain)[drawn.label],
            "caption": drawn.caption,
            "mask": mask,
            "vector": tuple((subject.mean(axis=1) / 255).tolist()) if subject.size else None,
        }
        return Example(image, content_hash(f"{domain} {i} {self.seed}".encode()), columns)
