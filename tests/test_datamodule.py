import json

import torch
from PIL import Image

from chrysalis.datamodule import drawn, folder


def test_a_held_out_batch_is_the_pictures_as_they_are():
    data = drawn("butterflies", 60, image_size=16, batch_size=4, val_fraction=0.3)
    data.setup()
    batch, rows = data.held_out_batch(5), data.held_out_rows[:5]
    images, contents = data.pictures.images[rows], data.pictures.contents[rows]
    assert (len(batch), batch.window) == (5, 5)
    assert torch.equal(batch.image, torch.from_numpy(images))
    assert batch.key.tolist() == contents.tolist()
    assert batch.u.tolist() == [0.0] * 5
    assert batch.row.tolist() == data.held_out_rows[:5].tolist()
    assert batch.mask.shape == (5, 1, 16, 16)
    assert batch.label.tolist() == data.pictures.labels[data.held_out_rows[:5]].tolist()
    assert batch.caption == tuple(data.pictures.captions[i] for i in data.held_out_rows[:5])
    assert len(data.held_out_batch(1000)) == len(data.held_out_rows)
    on_meta = batch.to("meta")
    moved = (on_meta.image, on_meta.mask, on_meta.label, on_meta.u, on_meta.vector)
    assert {x.device.type for x in moved} == {"meta"}
    assert on_meta.key.device.type == on_meta.row.device.type == "cpu"


def test_the_drawn_vector_is_the_mean_colour_under_the_mask():
    data = drawn("moths", 20, image_size=32, batch_size=4, val_fraction=0.3)
    data.setup()
    batch = data.held_out_batch(4)
    inside = batch.mask.double() / 255
    mean = (batch.image * inside).sum((2, 3)) / inside.sum((2, 3)) / 255
    torch.testing.assert_close(batch.vector.double(), mean, atol=1e-6, rtol=0)
    assert data.pictures.vector_names == ("red", "green", "blue")


def test_the_description_says_what_is_known(tmp_path):
    for i in range(3):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / f"{i}.png")
    bare = folder(str(tmp_path), image_size=16, batch_size=1)
    bare.setup()
    assert bare.description().endswith("1 held out")
    rows = [{"file_name": f"{i}.png", "text": "red", "mask_file_name": "0.png", "span": i} for i in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rich = folder(str(tmp_path), image_size=16, batch_size=1, vector_columns=["span"])
    rich.setup()
    assert rich.description().endswith("1 held out, captions, masks, vectors of 1")
