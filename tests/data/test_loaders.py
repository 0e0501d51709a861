import json

import numpy as np
import pytest
import torch
from PIL import Image

from chrysalis.data.loaders import BatchDataset, Order, loader
from chrysalis.data.sources.folder import folder_data
from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource


def requests(**settings):
    return list(Order(np.arange(10, 31), seed=5, **settings))


def test_an_epoch_has_every_row_once():
    rows = np.concatenate([r.rows for r in requests(batch_size=4)])
    assert sorted(rows) == list(range(10, 31))


def test_noise_of_an_image_is_independent_of_the_batch_size():
    def by_row(batch_size):
        return {
            int(row): int(key) for r in requests(batch_size=batch_size) for row, key in zip(r.rows, r.keys, strict=True)
        }

    assert by_row(4) == by_row(7) == by_row(21)


def test_order_and_noise_change_with_the_epoch():
    first = requests(batch_size=21)[0]
    second = requests(batch_size=21, done=lambda: 1)[0]
    assert first.rows.tolist() != second.rows.tolist()
    assert set(first.keys).isdisjoint(second.keys)


def test_a_resumed_order_continues_exactly():
    whole = requests(batch_size=4)
    rest = requests(batch_size=4, done=lambda: 3)
    assert len(whole) == 6
    for a, b in zip(whole[3:], rest, strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        assert a.keys.tolist() == b.keys.tolist()
        assert a.u.tolist() == b.u.tolist()
        assert a.window == b.window


def test_windows_count_their_images():
    """21 images in micro-batches of 4, accumulated by 2: windows of 8, 8 and, at the end, 4 + 1."""
    assert [r.window for r in requests(batch_size=4, accumulate=2)] == [8, 8, 8, 8, 5, 5]
    assert [len(r.rows) for r in requests(batch_size=4, accumulate=2)] == [4, 4, 4, 4, 4, 1]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_divide_each_joint_batch(world):
    ranks = [requests(batch_size=2, accumulate=2, rank=r, world=world) for r in range(world)]
    single = requests(batch_size=2 * world, accumulate=2)
    assert len({len(r) for r in ranks}) == 1
    for i, parts in enumerate(zip(*ranks, strict=True)):
        joint = sorted(int(row) for part in parts for row in part.rows)
        assert joint == sorted(single[i].rows.tolist())
        seen = sum(len(r[j].rows) for r in ranks for j in (i // 2 * 2, i // 2 * 2 + 1) if j < len(r))
        assert {part.window for part in parts} == {seen}


@pytest.mark.proof  # starts processes
def test_workers_change_nothing():
    images = open_set(DrawnSource("butterflies", 12), (3, 16, 16), "crop")
    order = Order(np.arange(12), 4, seed=0)
    alone = list(loader(BatchDataset(images, flip=True), order))
    with_workers = list(loader(BatchDataset(images, flip=True), order, num_workers=2))
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.key, b.key) for a, b in zip(alone, with_workers, strict=True)
    )


def test_flips_mirror_about_half_and_the_mask_too():
    images = open_set(DrawnSource("butterflies", 40), (3, 16, 16), "crop")
    batch = next(iter(loader(BatchDataset(images, flip=True), Order(np.arange(40), 40, seed=0))))
    flipped = 0
    for image, mask, row in zip(batch.image, batch.columns["mask"], batch.row, strict=True):
        original, original_mask = torch.from_numpy(images.images[row]), torch.from_numpy(images.columns["mask"][row])
        mirrored = not torch.equal(image, original)
        flipped += mirrored
        assert torch.equal(image, original.flip(-1) if mirrored else original)
        assert torch.equal(mask, original_mask.flip(-1) if mirrored else original_mask)
    assert 10 < flipped < 30


def test_mask_and_conditioning_image_flip_with_the_image_and_the_vector_stays(tmp_path):
    """One column is white in image, mask and conditioning image alike; the vector tells which."""
    lines = []
    for i in range(30):
        image = Image.new("RGB", (16, 16))
        image.paste("white", (i % 16, 0, i % 16 + 1, 16))
        image.putpixel((i % 16, i // 16), (200, 200, 200))
        image.save(tmp_path / f"{i}.png")
        names = {"mask_file_name": f"{i}.png", "conditioning_image_file_name": f"{i}.png"}
        lines.append(json.dumps({"file_name": f"{i}.png", "place": None if i == 5 else i % 16, **names}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    images = open_set(folder_data(str(tmp_path), vector_columns=["place"]).source, (3, 16, 16), "crop")
    batch = next(iter(loader(BatchDataset(images, flip=True), Order(np.arange(30), 30, seed=0))))
    assert batch.columns["vector"].dtype == torch.float32
    assert torch.equal(batch.columns["conditioning_image"], batch.image)
    assert torch.equal(batch.columns["mask"] > 0, batch.image[:, :1] > 127)
    columns = batch.image[:, 0, 8].argmax(dim=1)
    flipped = 0
    for row, place, column in zip(batch.row, batch.columns["vector"][:, 0], columns, strict=True):
        assert place.isnan() if row == 5 else place == row % 16
        assert column in (row % 16, 15 - row % 16)
        flipped += int(column != row % 16)
    assert 5 < flipped < 25
