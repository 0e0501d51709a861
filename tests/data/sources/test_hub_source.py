import datasets
import numpy as np
import pytest
from conftest import real_data, tiny_unet
from PIL import Image

from chrysalis.conditions.kinds.text import Text
from chrysalis.data.loaders import BatchDataset, Order
from chrysalis.data.sources.folder import FolderSource
from chrysalis.data.sources.hub import hub_data
from chrysalis.data.store import open_set
from chrysalis.system.errors import UserError

SHAPE = (3, 16, 16)


def test_a_hub_dataset_in_every_local_form(tmp_path):
    """Parquet with the columns of huggan/smithsonian_butterflies_subset, and save_to_disk's arrow."""
    images = [Image.new("RGB", (30, 20), (i * 20, 0, 0)) for i in range(6)]
    captions = [f"row {i}" for i in range(6)]
    features = datasets.Features(image=datasets.Image(), alt=datasets.Value("string"))
    dataset = datasets.Dataset.from_dict({"image": images, "alt": captions}, features=features)
    (tmp_path / "parquet").mkdir()
    dataset.to_parquet(tmp_path / "parquet" / "train.parquet")
    dataset.save_to_disk(tmp_path / "arrow")
    for folder in ("parquet", "arrow"):
        images = open_set(hub_data(str(tmp_path / folder), caption_column="alt").source, SHAPE, "crop")
        assert images.images[:, 0, 8, 8].tolist() == [0, 20, 40, 60, 80, 100]
        assert images.columns["caption"] == tuple(captions)
    with pytest.raises(UserError, match=r"data\.image_column=photo.*image, alt"):
        hub_data(str(tmp_path / "parquet"), image_column="photo")


def conditional_hub(tmp_path):
    """Six rows: a red left part on blue, its mask, its conditioning image, and two measurements."""
    red = [Image.new("RGB", (30, 20), "blue") for _ in range(6)]
    masks, conditions = [Image.new("L", (30, 20)) for _ in red], [Image.new("RGB", (60, 40)) for _ in red]
    for i in range(6):
        red[i].paste("red", (0, 0, 9 + i, 20))
        masks[i].paste(255, (0, 0, 9 + i, 20))
        conditions[i].paste("lime", (0, 0, 18 + 2 * i, 40))
    columns = {
        "image": (red, datasets.Image()),
        "mask": ([*masks[:5], None], datasets.Image()),
        "edges": (conditions, datasets.Image()),
        "span": ([1.5, None, 2.0, 3.0, 4.0, 5.0], datasets.Value("float64")),
        "month": ([1, 2, 3, 4, 5, 6], datasets.Value("int8")),
        "sex": (["f"] * 6, datasets.Value("string")),
        "kind": ([0] * 6, datasets.ClassLabel(names=["a"])),
    }
    rows = datasets.Dataset.from_dict(
        {name: values for name, (values, _) in columns.items()},
        features=datasets.Features({name: feature for name, (_, feature) in columns.items()}),
    )
    rows.save_to_disk(tmp_path / "all")
    rows.select(range(5)).save_to_disk(tmp_path / "full")
    return tmp_path


def test_a_hub_dataset_with_masks_conditioning_images_and_measurements(tmp_path):
    conditional_hub(tmp_path)
    columns = {"mask_column": "mask", "conditioning_image_column": "edges", "vector_columns": ["span", "month"]}
    images = open_set(hub_data(str(tmp_path / "full"), **columns).source, (3, 20, 20), "crop")
    for i in range(5):
        inside = np.tile(np.arange(20) < 4 + i, (20, 1))  # five pixels are cropped away at the left
        assert ((images.images[i, 0] > 127) == inside).all()
        assert ((images.columns["mask"][i, 0] == 255) == inside).all()
        assert ((images.columns["conditioning_image"][i, 1] > 127) == inside).all()
    np.testing.assert_array_equal(images.columns["vector"], [[1.5, 1], [np.nan, 2], [2, 3], [3, 4], [4, 5]])
    gap = open_set(hub_data(str(tmp_path / "all"), **columns).source, (3, 20, 20), "crop")
    assert "mask" not in gap.columns
    assert gap.without["mask"] == (f"{tmp_path / 'all'} row 5",)
    assert gap.columns["conditioning_image"].shape == (6, 3, 20, 20)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mask_column": "masks"}, r"data\.mask_column=masks is not a column.*image, mask, edges"),
        ({"conditioning_image_column": "x"}, r"data\.conditioning_image_column=x is not a column"),
        ({"vector_columns": ["span", "x"]}, r"data\.vector_columns=x is not a column"),
        ({"vector_columns": ["sex"]}, r"data\.vector_columns=sex is not a column of numbers.*string"),
        ({"vector_columns": ["kind"]}, r"data\.vector_columns=kind is not a column of numbers.*ClassLabel"),
        ({"mask_column": "span"}, r"data\.mask_column=span is not a column of images"),
    ],
)
def test_a_hub_column_that_cannot_be_used_is_refused(tmp_path, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        hub_data(str(conditional_hub(tmp_path) / "full"), **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"split": "test"}, r"^data\.split=test is not a split of .*: choose from train\.$"),
        ({"name": "small"}, r"^data\.name=small is unknown to .*: leave it out\.$"),
    ],
)
def test_a_saved_dataset_has_its_own_splits_and_no_configurations(tmp_path, settings, sentence):
    saved = datasets.DatasetDict(train=datasets.Dataset.from_dict({"image": ["a.png"]}))
    saved.save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=sentence):
        hub_data(str(tmp_path / "set"), **settings)


def test_a_list_of_captions_holds_alternatives_of_which_an_epoch_has_one(tmp_path):
    rows = {"image": [Image.new("RGB", (20, 20), (i, 0, 0)) for i in range(3)]}
    rows["text"] = [["a moth", "an insect", "a moth", None], ["one"], []]
    features = datasets.Features(image=datasets.Image(), text=datasets.List(datasets.Value("string")))
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    images = open_set(hub_data(str(tmp_path / "set"), caption_column="text").source, SHAPE, "crop")
    assert images.columns["caption"] == (("a moth", "an insect"), "one", "")

    def of_epoch(epoch: int) -> tuple[str, ...]:
        request = next(iter(Order(np.arange(3), 3, seed=0, done=lambda: epoch)))
        batch = BatchDataset(images, flip=False)[request]
        return tuple(batch.columns["caption"][i] for i in batch.row.argsort().tolist())

    epochs = [of_epoch(epoch) for epoch in range(200)]
    assert {caption[1:] for caption in epochs} == {("one", "")}
    assert 70 <= sum(caption[0] == "a moth" for caption in epochs) <= 130  # 100, and four standard deviations
    assert epochs[:20] == [of_epoch(epoch) for epoch in range(20)]
    assert Text().settings(images, tiny_unet())["words"] == ["a", "an", "insect", "moth", "one"]


@pytest.mark.parametrize(
    ("feature", "value", "kind"),
    [
        (datasets.List(datasets.Value("string")), ["x"], "List"),
        ({"a": datasets.Value("string")}, {"a": "x"}, "dict"),
        (datasets.Value("binary"), b"x", "binary"),
        (datasets.List({"a": datasets.Value("string")}), [{"a": "x"}], "dict"),
    ],
)
def test_labels_and_captions_that_are_no_text_are_refused_by_name(tmp_path, feature, value, kind):
    features = datasets.Features(image=datasets.Value("string"), what=feature)
    datasets.Dataset.from_dict({"image": ["a.png"], "what": [value]}, features=features).save_to_disk(tmp_path / "set")
    for key in ("label", "caption"):
        if key == "label" or kind != "List":
            shown = "List" if key == "label" and isinstance(feature, datasets.List) else kind
            with pytest.raises(UserError, match=rf"data\.{key}_column=what is a column of {shown} in .* one text"):
                hub_data(str(tmp_path / "set"), **{f"{key}_column": "what"})


def test_images_that_a_local_dataset_names_lie_below_its_folder(tmp_path, monkeypatch):
    for folder, color in ((tmp_path / "set" / "images", "red"), (tmp_path / "images", "blue")):
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 20), color).save(folder / "a.png")
    monkeypatch.chdir(tmp_path)  # they would be looked for here
    datasets.Dataset.from_dict({"image": ["images/a.png"]}).to_parquet(tmp_path / "set" / "train.parquet")
    source = hub_data(str(tmp_path / "set")).source
    assert source.read(0, SHAPE, "crop").image[:, 0, 0].tolist() == [255, 0, 0]
    with pytest.raises(UserError, match=r"data\.revision=main is for a hub id, and data\.path"):
        hub_data(str(tmp_path / "set"), revision="main")
    with pytest.raises(UserError, match=r"set data\.name to one of its configurations, 'default'"):
        hub_data(str(tmp_path / "set"), name="dark")


def test_a_missing_network_is_reported_at_once():
    with pytest.raises(UserError, match=r"no network.*data=butterflies"):
        hub_data("huggan/smithsonian_butterflies_subset")


@pytest.mark.skipif(not (real_data() / "hub_like").is_dir(), reason="the optional photographs are not here")
def test_real_photographs():
    hub = open_set(hub_data(str(real_data() / "hub_like")).source, SHAPE, "crop")
    folder = open_set(FolderSource(str(real_data() / "butterflies")), SHAPE, "crop")
    assert (len(hub), len(folder), len(folder.value_names["label"])) == (200, 583, 10)
    assert {"mask", "caption"} <= set(folder.columns)
