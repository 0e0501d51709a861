"""Images saved twice: in other formats, at other qualities, or with one pixel changed."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from chrysalis.data.near_duplicates import groups
from chrysalis.data.sources.folder import FolderSource
from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.system.errors import UserError


def scene(seed: int, side: int = 96) -> Image.Image:
    """A few shapes on a shaded ground, as smooth and as sharp as a photograph is."""
    rng = np.random.default_rng(seed)
    ramps = np.linspace(rng.integers(0, 256, 3), rng.integers(0, 256, 3), side)
    image = Image.fromarray(np.repeat(ramps[:, None], side, axis=1).astype(np.uint8))
    for _ in range(12):
        left, top, width, height = rng.integers(0, side, 4)
        color = tuple(rng.integers(0, 256, 3).tolist())
        ImageDraw.Draw(image).ellipse((left, top, left + width, top + height), fill=color)
    return image


@pytest.fixture
def thrice(tmp_path):
    """Twenty scenes, each as PNG, JPEG and WebP, and twenty as PNG alone."""
    for i in range(40):
        scene(i).save(tmp_path / f"{i}.png")
        if i < 20:
            scene(i).save(tmp_path / f"{i}.jpg", quality=85)
            scene(i).save(tmp_path / f"{i}.webp", quality=80)
    return tmp_path


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_three_encodings_of_an_image_are_on_one_side(thrice, size):
    found = open_set(FolderSource(str(thrice)), (3, *size), "crop")
    stems = [name.rsplit("/")[-1].split(".")[0] for name in found.names]
    expected = {i: {row for row, stem in enumerate(stems) if stem == str(i)} for i in range(20)}
    assert sorted(map(set, found.near_duplicates), key=min) == sorted(expected.values(), key=min)
    note = "60 images are near-duplicates of others (0.jpg and 0.png): each group stays on one side of the split."
    assert found.near_duplicates_note() == note
    for fraction in (0.1, 0.3, 0.6):
        train, validation = found.split(fraction)
        assert sorted([*train, *validation]) == list(range(80))
        assert {stems[row] for row in train}.isdisjoint(stems[row] for row in validation)
        assert 0.4 * fraction < len(validation) / 80 < 2 * fraction + 0.1


def test_a_split_without_near_duplicates_is_by_the_image_alone(tmp_path):
    """Each image falls where it did beside others, so that added near-duplicates move only their own groups."""
    for i in range(30):
        scene(i).save(tmp_path / f"{i}.png")
    found = open_set(FolderSource(str(tmp_path)), (3, 16, 16), "crop")
    assert (found.near_duplicates, found.near_duplicates_note()) == ((), "")
    validation = {found.names[row] for row in found.split(0.3)[1]}
    scene(0).save(tmp_path / "again.webp", lossless=True)
    more = open_set(FolderSource(str(tmp_path)), (3, 16, 16), "crop")
    assert len(more.near_duplicates) == 1
    moved = {more.names[row] for row in more.split(0.3)[1]} ^ validation
    assert moved <= {str(tmp_path / "0.png"), str(tmp_path / "again.webp")}


def test_the_split_of_drawn_images_is_unchanged():
    """By the hash of (domain, number, seed), which these rows are from."""
    found = open_set(DrawnSource("butterflies", 40), (3, 16, 16), "crop")
    assert found.near_duplicates == ()
    place = np.array([int.from_bytes(_blake2b(int(c).to_bytes(8, "big")), "big") >> 1 for c in found.contents]) / 2**63
    assert sorted(found.split(0.2)[1]) == np.flatnonzero(place < 0.2).tolist()


def _blake2b(data: bytes) -> bytes:
    import hashlib

    return hashlib.blake2b(data, digest_size=8).digest()


def test_a_set_that_is_mostly_one_image_validates_on_the_rest(tmp_path):
    for quality in range(60, 96, 5):
        scene(0).save(tmp_path / f"{quality}.jpg", quality=quality)
    all_one = open_set(FolderSource(str(tmp_path)), (3, 32, 32), "crop")
    assert all_one.near_duplicates_note().startswith("All images are near-duplicates (60.jpg and 65.jpg)")
    assert all(len(rows) for rows in all_one.split(0.5))
    scene(1).save(tmp_path / "other.png")
    train, validation = open_set(FolderSource(str(tmp_path)), (3, 32, 32), "crop").split(0.9)
    assert (train.tolist(), validation.tolist()) == ([*range(8)], [8])


def test_identical_images_alone_cannot_be_split(tmp_path):
    for i in range(3):
        scene(0).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match="All images are identical"):
        open_set(FolderSource(str(tmp_path)), (3, 16, 16), "crop").split(0.5)


def brute_force(images: np.ndarray) -> set[tuple[int, int]]:
    """Pairs whose 8 x 8 block means differ by at most 8 and whose pixels by at most 6 on average."""
    x = images.astype(np.float64)
    step = x.shape[-1] // 8
    means = x.reshape(len(x), 3, 8, step, 8, step).mean(axis=(3, 5))
    n = len(x)
    return {
        (i, j)
        for i in range(n)
        for j in range(i + 1, n)
        if np.abs(means[i] - means[j]).max() <= 8 and np.abs(x[i] - x[j]).mean() <= 6
    }


def test_groups_are_those_of_all_pairs():
    """Chains, exact copies in numbers above what is looked at for each image, and pairs just below and above."""
    rng = np.random.default_rng(0)
    base = rng.integers(60, 190, (12, 3, 16, 16), dtype=np.uint8)
    parts = [base, np.repeat(base[:1], 20, axis=0), base[1:2] + np.uint8(6), base[2:3] + np.uint8(7)]
    parts += [base[3:4] + np.uint8(5 * i) for i in range(1, 5)]
    one_block = base[4:5].copy()
    one_block[:, :, :2, :2] += 9
    images = np.concatenate([*parts, one_block, base[5:6] // 2])
    linked = {i: {i} for i in range(len(images))}
    for i, j in brute_force(images):
        together = linked[i] | linked[j]
        for k in together:
            linked[k] = together
    expected = sorted({tuple(sorted(group)) for group in linked.values() if len(group) > 1})
    assert [len(group) for group in expected] == [21, 2, 5]
    assert [tuple(group) for group in groups(images)] == expected
    assert groups(images[:1]) == groups(images[:0]) == []
