import json
from dataclasses import replace

import numpy as np
import torch
from lightning import Trainer
from PIL import Image

from chrysalis.data.loaders import Order
from chrysalis.data.sources.drawn import drawn_data
from chrysalis.data.sources.folder import folder_data
from chrysalis.evaluation.reference import reference_rows


def test_a_validation_batch_holds_the_images_unchanged():
    data = drawn_data("butterflies", 60, image_size=16, batch_size=4, val_fraction=0.3)
    data.setup()
    batch, rows = data.validation_batch(5), data.validation_rows[:5]
    images, contents = data.image_set.images[rows], data.image_set.contents[rows]
    assert (len(batch), batch.window) == (5, 5)
    assert torch.equal(batch.image, torch.from_numpy(images))
    assert batch.key.tolist() == contents.tolist()
    assert batch.u.tolist() == [0.0] * 5
    assert batch.row.tolist() == data.validation_rows[:5].tolist()
    assert batch.columns["mask"].shape == (5, 1, 16, 16)
    assert batch.columns["label"].tolist() == data.image_set.columns["label"][data.validation_rows[:5]].tolist()
    assert batch.columns["caption"] == tuple(data.image_set.columns["caption"][i] for i in data.validation_rows[:5])
    assert len(data.validation_batch(1000)) == len(data.validation_rows)
    on_meta = batch.to("meta")
    moved = (on_meta.image, on_meta.columns["mask"], on_meta.columns["label"], on_meta.u, on_meta.columns["vector"])
    assert {x.device.type for x in moved} == {"meta"}
    assert on_meta.key.device.type == on_meta.row.device.type == "cpu"


def test_the_drawn_vector_is_the_mean_colour_under_the_mask():
    data = drawn_data("moths", 20, image_size=32, batch_size=4, val_fraction=0.3)
    data.setup()
    batch = data.validation_batch(4)
    inside = batch.columns["mask"].double() / 255
    mean = (batch.image * inside).sum((2, 3)) / inside.sum((2, 3)) / 255
    torch.testing.assert_close(batch.columns["vector"].double(), mean, atol=1e-6, rtol=0)
    assert data.image_set.value_names["vector"] == ("red", "green", "blue")


def test_the_description_lists_the_columns(tmp_path):
    for i in range(3):
        Image.new("RGB", (20, 20), (100 * i, 0, 0)).save(tmp_path / f"{i}.png")
    bare = folder_data(str(tmp_path), image_size=16, batch_size=1)
    bare.setup()
    assert bare.description().endswith(", 2 training and 1 validation images of 16 x 16 px")
    rows = [{"file_name": f"{i}.png", "text": "red", "mask_file_name": "0.png", "span": i} for i in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rich = folder_data(str(tmp_path), image_size=16, batch_size=1, vector_columns=["span"])
    rich.setup()
    assert rich.description().endswith("1 validation images of 16 x 16 px, captions, masks, vectors of length 1")


def labelled(root, **counts) -> None:
    for label, n in counts.items():
        (root / label).mkdir()
        for i in range(n):
            values = np.random.default_rng([i, *label.encode()]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(values).save(root / label / f"{i}.png")


def on(data, accumulate: int = 1):
    data.setup()
    data.trainer = Trainer(accumulate_grad_batches=accumulate, accelerator="cpu", logger=False, barebones=True)
    return data


def test_a_validation_image_that_is_there_twice_is_one_observation(tmp_path):
    """Else standard errors, and the distances of samples to real images, count it as independent ones."""
    for k in range(60):
        Image.new("RGB", (16, 16), [(200, 30, 30), (30, 200, 30), (30, 30, 200)][k % 3]).save(tmp_path / f"{k}.png")
    data = folder_data(str(tmp_path), image_size=16, batch_size=4)
    data.open_images()
    assert (len(data.train_rows), len(data.validation_rows)) == (40, 1)
    rows, name = reference_rows(data)
    assert (len(set(data.image_set.contents[rows].tolist())), len(rows), name) == (3, 3, "real images")


def test_a_label_of_few_images_is_noted_where_labels_are_trained_on(tmp_path):
    labelled(tmp_path, many=150, one=1)
    data = on(folder_data(str(tmp_path), image_size=16, batch_size=4))
    data.image_set = replace(data.image_set, value_names={"label": ("many", "one", "known to the model alone")})
    assert data.notes([]) == data.notes(["text"]) == []
    (note,) = data.notes(["label"])
    row = data.image_set.columns["label"].tolist().index(1)
    assert row in data.train_rows  # fails if the hash of this image's bytes falls on the other side
    assert note == (
        "condition=label: 1 of 2 labels have fewer than 5 training images (one); 1 of 2 labels have no validation "
        "image (one). Add images or merge labels."
    )
    (tmp_path / "balanced").mkdir()
    labelled(tmp_path / "balanced", a=40, b=40)
    balanced = on(folder_data(str(tmp_path / "balanced"), image_size=16, batch_size=4, val_fraction=0.3))
    counts = [
        np.bincount(balanced.image_set.columns["label"][rows])
        for rows in (balanced.train_rows, balanced.validation_rows)
    ]
    assert counts[0].min() >= 5
    assert counts[1].min() >= 1
    assert balanced.notes(["label"]) == []


def test_a_step_of_more_images_than_there_are_is_noted(tmp_path):
    labelled(tmp_path, a=20)
    data = on(folder_data(str(tmp_path), image_size=16, batch_size=4), accumulate=8)
    n = len(data.train_rows)
    windows = {request.window for request in Order(data.train_rows, 4, 0, accumulate=8)}
    assert windows == {n}
    (note,) = data.notes([])
    assert note == (
        f"data.batch_size=4 x trainer.accumulate_grad_batches=8 is 32 images per optimizer step, more than the {n} "
        "training images: each step is one epoch."
    )
    assert on(folder_data(str(tmp_path), image_size=16, batch_size=4), accumulate=n // 4).notes([]) == []


def test_a_set_that_has_changed_is_noted_when_a_run_is_resumed(tmp_path, capsys):
    labelled(tmp_path, a=20)

    def opened():
        data = folder_data(str(tmp_path), image_size=16, batch_size=4)
        data.setup()
        return data

    kept = opened().state_dict()
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "renamed.png")
    opened().load_state_dict(kept)
    assert "changed" not in capsys.readouterr().err
    (tmp_path / "a" / "1.png").unlink()
    opened().load_state_dict(kept)
    message = " ".join(capsys.readouterr().err.split())
    assert "has changed since this run began: 20 images then, 19 now." in message
