"""From the command line: a condition is learned, sampled with, exported, loaded by diffusers alone, and mistyped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY_MODEL, TINY_RUN, results, tiny_clip
from diffusers import DDPMPipeline, UNet2DModel
from PIL import Image

from chrysalis.models import folder
from chrysalis.system.memory import align

DRAWN = ["data.n=60", "data.image_size=16", "name=told"]
DRAWN += ["callbacks.validation.every_n_train_steps=4", "callbacks.samples.every_n_train_steps=4"]  # of 4 steps
SMALL = ["steps=3", "batch_size=4", "out=drawn"]
TOLD = {
    "label": (["condition=label"], ["label=monarch"], {"label": "monarch"}),
    "vector": (["condition=vector"], ["vector=[0.9,0.5,0.1]"], {"vector": [0.9, 0.5, 0.1]}),
    "mask": (["condition=mask"], ["mask=mask.png"], {"mask": "mask.png"}),
    "image": (["condition=image", "condition.image.source=grey"], ["image=grey.png"], {"image": "grey.png"}),
    "text": (["condition=text"], ['text=a blue butterfly, on a "leaf"'], {"text": "a blue butterfly, on a leaf"}),
    "text encoder": (["condition=text", "condition.text.encoder=clip"], ["text=blue"], {"text": "blue"}),
    "label mask": (
        ["condition=[label,mask]"],
        ["label=morpho", "mask=mask.png"],
        {"label": "morpho", "mask": "mask.png"},
    ),
    "lora merged": (["condition=label", "adapter=lora"], ["label=monarch"], {"label": "monarch"}),
    "lora apart": (["condition=label", "adapter=lora", "adapter.merge=false"], ["label=monarch"], {"label": "monarch"}),
}

# diffusers alone
STOCK = """
import json, sys
import numpy as np, torch
from PIL import Image
from diffusers import DiffusionPipeline

given = json.loads(sys.argv[1])
for name in ("mask", "image"):
    if name in given:
        image = np.asarray(Image.open(given[name]).convert("L" if name == "mask" else "RGB"), dtype=np.float32)
        image = torch.from_numpy(image / 127.5 - 1)
        given[name] = image[None] if name == "mask" else image.permute(2, 0, 1)
pipeline = DiffusionPipeline.from_pretrained("runs/told/pipeline", custom_pipeline="runs/told/pipeline",
                                             trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
generators = [torch.Generator("cpu").manual_seed(s) for s in range(4)]
drawn = pipeline(batch_size=4, generator=generators, num_inference_steps=3, guidance_scale=2.0, **given).images
for k, image in enumerate(drawn):
    image.save(f"stock_{k}.png")
"""


@pytest.fixture
def images(tmp_path):
    """mask.png and grey.png at the model's size, and clip/, a text encoder."""
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (3, 5, 12, 16))
    mask.save(tmp_path / "mask.png")
    grey = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")


def image(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


SLOW = ("text encoder", "vector", "lora merged")  # each runs what another one runs too


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.proof] * (way in SLOW)) for way in TOLD])
def test_a_condition_is_learned_exported_and_drawn_with_by_diffusers_alone(run, stock, tmp_path, images, way):
    train, ask, given = TOLD[way]
    if way == "text encoder":
        tiny_clip(tmp_path / "clip")
    # a learning rate at which the condition has an effect after four steps
    assert run("train", *TINY_MODEL, *TINY_RUN, *DRAWN, "optimizer.lr=0.02", *train) == 0
    r = results(tmp_path / "runs" / "told")
    assert {"val_loss_condition_null", "val_loss_condition_shuffled"} <= set(r)
    pipeline = "model.pretrained=runs/told"
    assert run("sample", pipeline, "n=4", "scheduler=ddim", *SMALL, *ask, "guidance=cfg", "guidance.scale=2") == 0
    stock(STOCK, tmp_path, json.dumps(given))
    ours = np.stack([image(f"drawn/seed_{k:05d}.png") for k in range(4)])
    theirs = np.stack([image(f"stock_{k}.png") for k in range(4)])
    assert np.abs(ours - theirs).max() <= 1  # one convolution or two: they round apart
    assert (ours == theirs).mean() > 0.999
    assert run("sample", pipeline, "n=4", "steps=3", "batch_size=4", "out=without") == 0
    assert not (image("without/seed_00000.png") == ours[0]).all()


def test_the_unet_of_a_conditional_export_is_stock(trained):
    told = trained(*TINY_MODEL, *TINY_RUN, *DRAWN, "condition=[label,mask]")
    pretrained = UNet2DModel.from_pretrained(told / "pipeline" / "unet")
    assert pretrained.config.in_channels == 3
    assert pretrained.config.class_embed_type is None
    model = folder.load("runs/told")
    assert model.conditioner.embeddings["label"].names[:3] == ["admiral", "birdwing", "brimstone"]
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 500])
    cond = {"label": torch.tensor([0, 4]), "mask": torch.ones(2, 1, 16, 16)}
    # stock diffusers' own conditioning, with the weights of the conditioner
    unet = UNet2DModel.from_config({**pretrained.config, "in_channels": 4, "class_embed_type": "identity"}).eval()
    conv_in = torch.cat([pretrained.conv_in.weight, model.conditioner.conv_in], dim=1)
    unet.load_state_dict({**pretrained.state_dict(), "conv_in.weight": conv_in})
    with torch.no_grad():
        ours = model.conditioner(model.unet, x, t, cond)
        vector = model.conditioner.embeddings["label"](cond["label"])
        theirs = unet(torch.cat([x, cond["mask"]], 1), t, class_labels=vector).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    again = folder.load("runs/told")
    with torch.no_grad():
        assert torch.equal(again.conditioner(again.unet, x, t, cond), ours)


def test_an_unconditional_export_is_still_stocks_own(run, tmp_path):
    """Also of a run that learned a LoRA, which is merged."""
    assert run("train", *TINY_MODEL, *TINY_RUN, *DRAWN, "adapter=lora") == 0
    at = tmp_path / "runs" / "told" / "pipeline"
    assert not (at / "pipeline.py").exists()
    assert run("sample", "model.pretrained=runs/told", "n=1", "steps=3", "out=drawn", "scheduler=ddpm") == 0
    stock = DDPMPipeline.from_pretrained(at)
    align(stock.unet)
    stock.set_progress_bar_config(disable=True)
    theirs = stock(generator=torch.Generator().manual_seed(0), num_inference_steps=3).images[0]
    assert (image("drawn/seed_00000.png") == np.asarray(theirs)).all()


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(["condition=[label,text]"], marks=pytest.mark.proof),
        ["condition=mask", "adapter=lora"],
        pytest.param(["model.train=new"], marks=pytest.mark.proof),
    ],
)
@pytest.mark.proof
def test_a_stopped_run_ends_as_if_it_had_not_stopped(run, model_folder, tmp_path, how):
    """Weights and validation losses, to the bit; with a condition, an adapter, and frozen weights."""
    if how == ["model.train=new"]:
        model = [f"model.pretrained={model_folder}", "condition=vector", "data.image_size=16"]
    else:
        model = TINY_MODEL
    common = [*model, *TINY_RUN, "data.n=60", *how]
    common = [o for o in common if o != "trainer.max_steps=4"]
    assert run("train", *common, "name=whole", "trainer.max_steps=6", "lr_schedule=constant") == 0
    assert run("train", *common, "name=parts", "trainer.max_steps=4", "lr_schedule=constant") == 0
    assert run("train", "resume=runs/parts", "trainer.max_steps=6") == 0
    whole, parts = (
        torch.load(tmp_path / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert set(whole) == set(parts)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    a, b = (results(tmp_path / "runs" / name) for name in ("whole", "parts"))
    same = [key for key in a if key.startswith("val_loss")]
    assert len(same) >= 3
    assert [a[key] for key in same] == [b[key] for key in same]


def test_a_conditional_model_goes_on_learning_on_other_pictures(run, trained, tmp_path, image_folder):
    """It stays conditioned on its ten labels, matched by name, although the new data have four of them."""
    trained(*TINY_MODEL, *TINY_RUN, *DRAWN, "condition=label")
    other = [*TINY_RUN, "model.pretrained=runs/told", "data.image_size=16", "name=on"]
    (tmp_path / "images" / "monarch" / "text.txt").write_text("not an image")
    for extra in sorted((tmp_path / "images").iterdir())[4:]:
        for file in extra.iterdir():
            file.unlink()
        extra.rmdir()
    assert run("train", "data=folder", f"data.path={image_folder}", *other) == 0
    model = folder.load("runs/on")
    assert len(model.conditioner.embeddings["label"].names) == 10


def test_one_row_for_each_condition(run, trained, tmp_path, images):
    trained(*TINY_MODEL, *TINY_RUN, *DRAWN, "condition=[label,mask]")
    sheet = Image.open(tmp_path / "runs" / "told" / "samples" / "step_000004.png")
    assert sheet.height > 5 * 16
    ask = ["model.pretrained=runs/told", "label=[monarch,morpho]", "mask=butterflies", "n=3"]
    assert run("sample", *ask, *SMALL) == 0
    names = {f"{label}_seed_{k:05d}.png" for label in ("monarch", "morpho") for k in range(3)}
    assert {p.name for p in Path("drawn").glob("*.png")} == {*names, "grid.png"}
    assert not (image("drawn/monarch_seed_00001.png") == image("drawn/morpho_seed_00001.png")).all()
    chosen = Path("drawn/morpho_seed_00002.png")
    assert run("sample", f"from={chosen}", "out=again") == 0
    assert (tmp_path / "again" / chosen.name).read_bytes() == chosen.read_bytes()
    assert run("sample", *ask, "task=morph", "out=morph", "steps=2") == 2


def test_without_its_condition_a_model_says_so(run, trained, tmp_path, capfd):
    trained(*TINY_MODEL, *TINY_RUN, *DRAWN, "condition=[label,mask]")
    assert run("sample", "model.pretrained=runs/told", "n=1", *SMALL) == 0
    said = capfd.readouterr().err.replace("\n", " ")
    assert "sampling without label and mask. To set them: " in said
    assert "label=all for admiral, birdwing" in said
    assert "mask=FILE.png" in said


def metadata(folder_: Path, **columns):
    """A folder of six images with these columns in its metadata.jsonl; a column's value k is that of image k."""
    folder_.mkdir()
    lines = []
    for k in range(6):
        Image.new("RGB", (20, 20), (40 * k, 80, 120)).save(folder_ / f"{k}.png")
        entry = {"file_name": f"{k}.png", **{name: values[k] for name, values in columns.items()}}
        lines.append(json.dumps({name: value for name, value in entry.items() if value is not None}))
    (folder_ / "metadata.jsonl").write_text("\n".join(lines))
    return f"data.path={folder_}"


MISTAKES = {
    "no labels": (
        {},
        ["condition=label"],
        "condition=label, but",
        "has no labels: put the images into one folder per label",
    ),
    "no captions": ({}, ["condition=text"], "condition=text, but", "has no captions: give `text` in a metadata.jsonl"),
    "no masks": ({}, ["condition=mask"], "condition=mask, but", "has no masks: add them with data.masks=FOLDER"),
    "no numbers": ({}, ["condition=vector"], "condition=vector, but", "data.vector_columns=[wingspan,...]"),
    "no images": ({}, ["condition=image"], "condition=image, but", "has no conditioning images: add them with"),
    "a gap among the masks": (
        {"mask_file_name": ["0.png", "1.png", None, "3.png", "4.png", "5.png"]},
        ["condition=mask"],
        "1 of 6 images of",
        "2.png. Add what is missing",
    ),
    "a column that is not there": (
        {"label": list("ababab")},
        ["condition=text", "data.caption_column=words"],
        "data.caption_column=words",
        "label",
    ),
    "a way that is unknown": ({}, ["condition=labl"], "condition=labl is unknown: did you mean label?", "none"),
    "an encoder that is not there": (
        {"text": list("abcdef")},
        ["condition=text", "condition.text.encoder=./nowhere"],
        "condition.text.encoder=./nowhere is neither a folder nor a hub id",
        "",
    ),
    "a rank": ({}, ["adapter=lora", "adapter.rank=0"], "adapter.rank=0", ""),
    "a dropout": ({"label": list("ababab")}, ["condition=label", "condition.dropout=2"], "condition.dropout=2", ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_the_data_lack_is_said(run, tmp_path, capfd, mistake):
    columns, how, *says = MISTAKES[mistake]
    path = metadata(tmp_path / "data", **columns)
    assert run("train", *TINY_MODEL, *TINY_RUN, "data=folder", path, *how, "name=bad") == 2
    said = " ".join(capfd.readouterr().err.split())
    assert all(part in said for part in says), said
    assert "Traceback" not in said
    assert not (tmp_path / "runs" / "bad").exists()


ASKED = {
    "an unknown label": (
        ["label=monrch"],
        "label=monrch is unknown to this model: did you mean monarch? Choose from admiral",
    ),
    "what it is not told": (["text=blue"], "text=blue, but runs/told is conditioned on label only"),
    "a list for a morph": (["label=[monarch,morpho]", "task=morph"], "task=morph takes one condition at a time"),
}


def test_what_the_model_does_not_know_is_said(run, trained, tmp_path, capfd):
    trained(*TINY_MODEL, *TINY_RUN, *DRAWN, "condition=label")
    capfd.readouterr()
    for how, says in ASKED.values():
        assert run("sample", "model.pretrained=runs/told", "n=2", *SMALL, *how) == 2
        said = " ".join(capfd.readouterr().err.split())
        assert says in said, said
        assert not Path("drawn").exists()
    assert run("sample", f"model.pretrained={REPOSITORY / 'assets' / 'moths-64'}", "guidance=cfg", "out=drawn") == 2
    assert "guidance=cfg needs a conditional model" in " ".join(capfd.readouterr().err.split())
    more = ["model.pretrained=runs/told", "condition=mask", "name=more", "data.image_size=16"]
    assert run("train", *TINY_RUN, "data.n=60", *more) == 2
    assert "is conditioned on label: start from its base model" in " ".join(capfd.readouterr().err.split())


def test_new_weights_learn_at_a_rate_of_their_own(run, tmp_path):
    how = ["condition=[label,mask]", "condition.lr_multiplier=5", "optimizer.lr=0.001", "lr_schedule=constant"]
    assert run("train", *TINY_MODEL, *TINY_RUN, *DRAWN, *how, "lr_schedule.warmup_steps=0") == 0
    saved = torch.load(tmp_path / "runs" / "told" / "checkpoints" / "last.ckpt", weights_only=True)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0.001, 0.005]
    model = folder.load("runs/told")
    assert len(groups[1]["params"]) == len(list(model.conditioner.parameters()))
    assert (
        run("train", *TINY_MODEL, *TINY_RUN, "data.n=60", "name=bad", "condition=label", "condition.lr_multiplier=0")
        == 2
    )


def test_the_numbers_of_a_model_are_those_of_the_data(run, tmp_path, capfd):
    assert run("train", *TINY_MODEL, *TINY_RUN, *DRAWN, "condition=vector") == 0
    path = metadata(tmp_path / "data", span=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    more = ["data=folder", path, "data.vector_columns=[span]", "data.image_size=16", "data.batch_size=2", "name=on"]
    assert run("train", *TINY_RUN[1:], "model.pretrained=runs/told", *more) == 2
    assert "the model is conditioned on red, green, blue, and" in " ".join(capfd.readouterr().err.split())
    assert run("sample", "model.pretrained=runs/told", "task=blend", "out=drawn") == 2
    assert "task=blend needs unconditional models" in " ".join(capfd.readouterr().err.split())
