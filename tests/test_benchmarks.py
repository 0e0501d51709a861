"""The plain loop is what it claims to be; what `make bench` and benchmarks/growth.py make of figures."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from torchvision.transforms import functional as T

from benchmarks import growth, plain_loop
from benchmarks.speed import held_out, report
from benchmarks.speed.report import Row
from benchmarks.speed.sides import Bench, Ours, SideFailed
from chrysalis import datamodule
from chrysalis.data.butterflies import draw
from chrysalis.folder import load

PLAIN_LOOP = REPOSITORY / "benchmarks" / "plain_loop.py"


@pytest.fixture
def twelve(tmp_path):
    (tmp_path / "twelve").mkdir()
    for i in range(12):
        Image.fromarray(draw("butterflies", i, size=32).image).save(tmp_path / "twelve" / f"{i:02d}.png")
    return tmp_path / "twelve"


def called(capsys, *arguments) -> dict:
    """What the plain loop prints."""
    plain_loop.main([str(argument) for argument in arguments])
    return json.loads(capsys.readouterr().out)


def test_the_plain_loop_trains_as_stock_pieces_do(model_folder, twelve, capsys, tmp_path):
    """Written out: shuffled by a DataLoader, mirrored one by one, then noise, then timesteps, from one generator."""

    def picture(i: int) -> torch.Tensor:
        image = T.resize(Image.open(twelve / f"{i:02d}.png").convert("RGB"), [16, 16])
        image = T.hflip(image) if torch.rand(1) < 0.5 else image
        return 2 * T.to_tensor(image) - 1

    torch.manual_seed(3)
    unet = UNet2DModel.from_pretrained(model_folder / "unet").train()
    abar, losses = DDPMScheduler().alphas_cumprod, []
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    rows = torch.utils.data.DataLoader(range(12), 4, shuffle=True, collate_fn=lambda r: torch.stack([*map(picture, r)]))
    while len(losses) < 10:
        for x0 in rows:
            eps, t = torch.randn(4, 3, 16, 16), torch.randint(1000, (4,))
            a = abar[t].view(4, 1, 1, 1)
            loss = F.mse_loss(unet(a.sqrt() * x0 + (1 - a).sqrt() * eps, t).sample, eps)
            loss.backward()
            losses.append(loss.item())
            if len(losses) % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
            if len(losses) == 10:
                break

    options = ("--model", model_folder, "--data", twelve, "--image-size", 16, "--lr", 1e-3, "--seed", 3)
    told = called(capsys, "train", *options, "--steps", 10, "--save", tmp_path / "saved")
    assert told["losses"] == pytest.approx(losses, abs=1e-6)
    assert told["mean_loss"] == pytest.approx(sum(losses) / 10, abs=1e-6)
    saved = load_file(tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.allclose(weight, saved[name], atol=1e-6) for name, weight in unet.state_dict().items())


def test_the_plain_loop_draws_as_the_stock_scheduler_does(model_folder, capsys, tmp_path):
    unet, ddim = UNet2DModel.from_pretrained(model_folder / "unet").eval(), DDIMScheduler()
    torch.manual_seed(5)
    x = torch.randn(2, 3, 16, 16)
    ddim.set_timesteps(4)
    with torch.no_grad():
        for t in (750, 500, 250, 0):
            x = ddim.step(unet(x, t).sample, t, x).prev_sample
    told = called(
        capsys, "sample", "--model", model_folder, "--n", 2, "--ddim-steps", 4, "--seed", 5, "--save", tmp_path / "x"
    )
    assert torch.allclose(torch.load(tmp_path / "x"), x, atol=1e-6)
    assert told["images_per_second"] == pytest.approx(2 / told["timed_seconds"])


@pytest.mark.skipif("CHRYSALIS_REFERENCE_LOOP" not in os.environ, reason="names no other plain loop to compare with")
def test_the_plain_loop_is_the_reference_loop(model_folder, twelve, tmp_path):
    def run(program) -> tuple[dict, dict]:
        saved = tmp_path / "saved" / os.path.basename(program)
        options = ["--model", model_folder, "--data", twelve, "--image-size", "16", "--steps", "10", "--save", saved]
        done = subprocess.run(
            [sys.executable, program, "train", *options, "--lr", "1e-3"], capture_output=True, text=True, check=True
        )
        weights = load_file(saved / "unet" / "diffusion_pytorch_model.safetensors")
        return json.loads(done.stdout.splitlines()[-1]), weights

    theirs, their_weights = run(os.environ["CHRYSALIS_REFERENCE_LOOP"])
    ours, our_weights = run(str(PLAIN_LOOP))
    assert set(theirs) <= set(ours)
    assert ours["mean_loss"] == pytest.approx(theirs["mean_loss"], abs=1e-6)
    assert all(torch.allclose(weight, our_weights[name], atol=1e-6) for name, weight in their_weights.items())


ROWS = [
    Row("train", "training at 64 px", "images/s", 1.5, True, [20.0, 18.0, 22.0], [40.0, 50.0, 45.0], {"ours": "bf16"}),
    Row("first-step", "to the first step", "s", 1.2, False, [5.0], [7.0]),
    Row("data", "the data path | alone", "images/s", 5000, ours=[6000.0]),
    Row("drawing", "drawing", "", 0.0, failed="plain sample ended with 1: no such folder"),
]


def test_rows_know_their_medians_ratio_and_target():
    ratios = [row.record()["ratio"] for row in ROWS]
    assert ratios == [2.25, 1.4, None, None]
    assert [row.record()["reached"] for row in ROWS] == [True, False, True, False]


def test_what_is_written_can_be_added_to(tmp_path):
    about = {"commit": "abc", "torch": "2.15", "date": "2026-01-01", "command": "make bench"}
    machine = "Intel(R) Xeon(R) Processor (2 threads)"
    report.write(tmp_path, machine, about, ROWS)
    again = Row("first-step", "to the first step", "s", 1.2, False, [5.0], [5.5])
    path, page = report.write(tmp_path, machine, about | {"commit": "def"}, [again])
    assert path.name == "intel-xeon-2-threads.json"
    records = {record["name"]: record for record in json.loads(path.read_text())["rows"]}
    assert list(records) == ["train", "first-step", "data", "drawing"]
    assert records["train"]["plain"] == [20.0, 18.0, 22.0]
    assert (records["first-step"]["ours"], records["first-step"]["reached"]) == ([5.5], True)
    assert records["first-step"]["measured"]["commit"] == "def"
    lines = page.read_text().splitlines()
    assert "| training at 64 px | 20 images/s | 45 images/s | 2.25 | at least 1.5 | reached |" in lines
    assert "| the data path / alone |  | 6,000 images/s |  | at least 5,000 images/s | reached |" in lines
    assert "| drawing |  |  |  |  | no figure: plain sample ended with 1: no such folder |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_machines_have_file_names():
    assert report.slug("AMD Ryzen(TM) 9 7950X CPU @ 4.50GHz (16 threads)") == "amd-ryzen-9-7950x-16-threads"
    assert report.slug("NVIDIA H200") == "nvidia-h200"


def test_results_name_no_folders():
    told = report.without_folders(
        "python -m x --data /home/me/some/pictures --model ../y/model --eps-model assets/moths"
    )
    assert told == "python -m x --data .../pictures --model .../model --eps-model assets/moths"


def test_the_held_out_loss_of_a_plain_model_is_the_mean_over_pictures_and_timesteps(model_folder, picture_folder):
    """Against the formula, with the keys that the callback would use."""
    from chrysalis import hardware, pixels, seeds

    data = datamodule.folder(str(picture_folder), image_size=16, resize="stretch", val_fraction=0.3)
    data.setup()
    unet, noising = load(str(model_folder)).unet.eval(), DDPMScheduler()
    batch, losses = data.held_out_batch(held_out.IMAGES), []
    for image, key in zip(pixels.to_signed(batch.image), batch.key.tolist(), strict=True):
        for j in range(8):
            t = torch.tensor([int((j + 0.5) * 1000 / 8)])
            eps = seeds.normal([seeds.key(0, "held out", key, j)], image.shape)
            with torch.no_grad():
                losses.append(F.mse_loss(unet(noising.add_noise(image[None], eps, t), t).sample, eps).item())
    halved = hardware.precision("auto", "cpu")[0] != "32-true"
    expected = pytest.approx(sum(losses) / len(losses), rel=1e-2 if halved else 1e-5)
    assert held_out.loss_of(model_folder, data) == expected


def test_the_first_loss_that_is_low_enough_counts(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "tensorboard"))
    for step, raw, ema in ((0, 0.1, 0.1), (5, 0.5, 0.6), (10, 0.3, 0.5), (15, 0.2, 0.4)):
        values = [Summary.Value(tag=f"held_out/{n}", simple_value=v) for n, v in (("raw", raw), ("ema", ema))]
        writer.add_event(Event(step=step, wall_time=100.0 + step, summary=Summary(value=values)))
    writer.close()
    ours = Ours({}, tmp_path, started=90.0)
    assert held_out.reached(ours, 0.3001) == (10, 20.0)
    assert held_out.reached(ours, 0.01, or_nothing=True) == (None, None)
    with pytest.raises(ValueError, match=r"ours came to 0\.2"):
        held_out.reached(ours, 0.01)


def test_the_plain_loop_gets_links_to_what_ours_reads(tmp_path, picture_folder):
    bench = Bench("cpu", "model", str(picture_folder), tmp_path, tmp_path)
    names = {path.resolve() for path in bench.view().iterdir()}
    assert names == {path.resolve() for path in picture_folder.rglob("*.png")}
    assert len(list(bench.view("some", lambda file: file.name < "2").iterdir())) < len(names)


def test_a_side_that_fails_says_why(tmp_path):
    bench = Bench("cpu", "model", "pictures", tmp_path, tmp_path)
    with pytest.raises(SideFailed, match=r"no_such_program.py --help ended with 2: .*can't open file"):
        bench.program("no_such_program.py", "--help")


def test_growth_is_held_against_what_it_may_be():
    """Four times the pixels may cost four times as much; here memory takes eight times as much, and is flagged."""
    small = dict(zip(growth.COLUMNS, (80.0, 100.0, 2.0, 1.0, 0.1), strict=True))
    large = dict(zip(growth.COLUMNS, (20.0, 800.0, 8.0, 2.0, 0.1), strict=True))
    size, batch, pictures = growth.AXES
    assert growth.grown(size, 32, 64, small, large)["images/s"] == (4.0, 4.0)
    lines = growth.table(size, (32, 64), [small, large]).splitlines()
    assert lines[-2] == "| 32 | 80 | 100 | 2 | 1 | 0.1 |"
    cells = [cell.strip() for cell in lines[-1].split("|")]
    assert cells[2:4] == ["20 (x4.00 of x4)", "800 (x8.00 of x4, **too much**)"]
    assert "20 (x4.00 of x1, **too much**)" in growth.table(batch, (8, 32), [small, large])
    assert growth.grown(pictures, 100, 1000, small, large)["decoding, s"] == (2.0, 10.0)


def test_the_pictures_of_the_growth_tables_can_be_read_and_differ(tmp_path):
    growth.write_pictures(tmp_path / "pictures", 30)
    data = datamodule.folder(str(tmp_path / "pictures"), image_size=16, resize="stretch")
    data.setup()
    assert len(data.pictures) == len(set(data.pictures.contents.tolist())) == 30
    assert len(data.held_out_rows) < 15
