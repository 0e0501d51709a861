"""The rows and tables of `make bench` and benchmarks/growth.py."""

import json

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from benchmarks import growth
from benchmarks.speed import report, sampling, validation
from benchmarks.speed.report import Row
from benchmarks.speed.sides import Bench, Ours, SideFailed
from chrysalis.data.sources.folder import folder_data
from chrysalis.models.folder import load

TRAIN = Row("train", "training at 64 px", "images/s", 1.5, True, [20.0, 18.0, 22.0], [40.0, 50.0, 45.0])
TRAIN.script, TRAIN.script_target, TRAIN.notes = [40.0, 36.0, 38.0], 1.0, {"ours": "bf16"}
ROWS = [
    TRAIN,
    Row("first-step", "to the first step", "s", 1.2, False, [5.0], [7.0]),
    Row("data", "the data path | alone", "images/s", 5000, ours=[6000.0]),
    Row("sampling", "sampling", "", 0.0, failed="plain sample ended with 1: no such folder"),
    Row("shown", "to the script's loss", "s", None, False, ours=[9.0], script=[10.0]),
]


def test_rows_have_medians_ratios_and_targets():
    records = [row.record() for row in ROWS]
    assert [record["ratio"] for record in records] == [2.25, 1.4, None, None, None]
    assert [record["script_ratio"] for record in records] == [45 / 38, None, None, None, 0.9]
    assert [record["reached"] for record in records] == [True, False, True, False, None]


def test_the_target_of_either_baseline_can_be_missed():
    row = Row("train", "training", "images/s", 1.5, plain=[10.0], ours=[20.0], script=[21.0], script_target=1.0)
    assert row.reached is False
    row.script = [20.0]
    assert row.reached is True
    row.ours, row.script = [14.0], [10.0]
    assert row.reached is False
    assert Row("loss", "to a loss", "s", None, at_least=False, script=[10.0]).reached is None


def test_new_rows_are_added_to_a_file(tmp_path):
    about = {"commit": "abc", "torch": "2.15", "date": "2026-01-01", "command": "make bench"}
    machine = "Intel(R) Xeon(R) Processor (2 threads)"
    report.write(tmp_path, machine, about, ROWS)
    again = Row("first-step", "to the first step", "s", 1.2, False, [5.0], [5.5])
    path, page = report.write(tmp_path, machine, about | {"commit": "def"}, [again])
    assert path.name == "intel-xeon-2-threads.json"
    records = {record["name"]: record for record in json.loads(path.read_text())["rows"]}
    assert list(records) == ["train", "first-step", "data", "sampling", "shown"]
    assert records["train"]["plain"] == [20.0, 18.0, 22.0]
    assert (records["first-step"]["ours"], records["first-step"]["reached"]) == ([5.5], True)
    assert records["first-step"]["measured"]["commit"] == "def"
    lines = page.read_text().splitlines()
    limits = "at least 1.5; 1 to script"
    assert (
        f"| training at 64 px | 20 images/s | 38 images/s | 45 images/s | 2.25 | 1.18 | {limits} | reached |" in lines
    )
    assert "| the data path / alone |  |  | 6,000 images/s |  |  | at least 5,000 images/s | reached |" in lines
    assert "| sampling |  |  |  |  |  |  | no figure: plain sample ended with 1: no such folder |" in lines
    assert "| to the script's loss |  | 10 s | 9 s |  | 0.90 |  |  |" in lines
    assert lines[0].endswith("Targets reached: 3 of 4; missed: sampling.")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_rows_without_a_second_baseline_can_be_shown():
    record = {k: v for k, v in ROWS[1].record().items() if "script" not in k}
    row = "| to the first step | 5 s |  | 7 s | 1.40 |  | at most 1.2 | missed |"
    assert row in report.markdown("a machine", [record])


def test_the_table_has_every_machine(tmp_path):
    for machine in ("AMD EPYC (2 threads)", "Intel Xeon (2 threads)"):
        report.write(tmp_path, machine, {"commit": "abc", "torch": "2.15", "date": "2026-01-01"}, ROWS)
    (tmp_path / "early_stopping.json").write_text("[]")
    page = report.tables(tmp_path)
    assert page.index("### AMD EPYC (2 threads)") < page.index("### Intel Xeon (2 threads)")
    assert page.count("| training at 64 px |") == 2


def test_machines_have_file_names():
    assert report.slug("AMD Ryzen(TM) 9 7950X CPU @ 4.50GHz (16 threads)") == "amd-ryzen-9-7950x-16-threads"
    assert report.slug("NVIDIA H200") == "nvidia-h200"


def test_results_contain_no_folders():
    text = report.without_folders("python -m x --data /home/me/some/images --model ../y/model --eps-model assets/moths")
    assert text == "python -m x --data .../images --model .../model --eps-model assets/moths"


def test_the_validation_loss_of_a_baseline_is_the_mean_over_images_and_timesteps(model_folder, image_folder):
    """Compared with the formula, with the noise that the callback would use."""
    from chrysalis.data import pixels
    from chrysalis.diffusion import seeds
    from chrysalis.system import hardware

    data = folder_data(str(image_folder), image_size=16, resize="stretch", val_fraction=0.3)
    data.setup()
    unet, noising = load(str(model_folder)).unet.eval(), DDPMScheduler()
    batch, losses = data.validation_batch(validation.IMAGES), []
    for image, key in zip(pixels.to_signed(batch.image), batch.key.tolist(), strict=True):
        for j in range(validation.BINS):
            t = torch.tensor([int((j + 0.5) * 1000 / validation.BINS)])
            eps = seeds.normal([seeds.key(0, "held out", key, j)], image.shape)
            with torch.no_grad():
                losses.append(F.mse_loss(unet(noising.add_noise(image[None], eps, t), t).sample, eps).item())
    halved = hardware.precision("auto", "cpu")[0] != "32-true"
    expected = pytest.approx(sum(losses) / len(losses), rel=1e-2 if halved else 1e-5)
    assert validation.loss_of(model_folder, data) == expected


def test_the_first_low_enough_loss_counts(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "tensorboard"))
    for step, raw, ema in ((0, 0.1, 0.1), (5, 0.5, 0.6), (10, 0.3, 0.5), (15, 0.2, 0.4)):
        values = [Summary.Value(tag=f"val/{n}", simple_value=v) for n, v in (("loss_raw", raw), ("loss", ema))]
        writer.add_event(Event(step=step, wall_time=100.0 + step, summary=Summary(value=values)))
    writer.close()
    ours = Ours({}, tmp_path, started=90.0)
    assert validation.time_to_loss(ours, 0.3001) == (10, 20.0)
    assert validation.time_to_loss(ours, 0.01, or_nothing=True) == (None, None)
    with pytest.raises(ValueError, match=r"Chrysalis's lowest validation loss, 0\.2"):
        validation.time_to_loss(ours, 0.01)


def test_the_baselines_get_links_to_the_images_of_ours(tmp_path, image_folder):
    bench = Bench("cpu", "model", str(image_folder), tmp_path, tmp_path)
    names = {path.resolve() for path in bench.view().iterdir()}
    assert names == {path.resolve() for path in image_folder.rglob("*.png")}
    assert len(list(bench.view("some", lambda file: file.name < "2").iterdir())) < len(names)


def test_repetitions_stay_within_their_time(tmp_path, monkeypatch):
    """Two in any case, a third one only if it is likely to fit."""
    bench, seconds = Bench("cpu", "model", "images", tmp_path, tmp_path), 0.0
    monkeypatch.setattr("benchmarks.speed.sides.time.perf_counter", lambda: seconds)
    for each, expected in ((10.0, 3), (19.9, 3), (20.1, 2), (1000.0, 2)):
        made = 0
        for _ in bench.repeat(3, budget=60):
            made, seconds = made + 1, seconds + each
        assert made == expected


def test_the_bundled_models_1000_step_samples_are_in_the_repository(tmp_path):
    """Otherwise every machine would generate them for minutes."""
    bench = Bench("cpu", "assets/moths-64", "images", tmp_path, tmp_path / "cache")
    sampler = sampling.Sampler(bench.model, bench.device, "32-true")
    assert sampling.limit_file(bench, sampler, sampling.N, sampling.LIMIT_STEPS).is_file()
    limit = sampling.limit(bench)
    assert (limit.shape, limit.dtype) == ((sampling.N, 3, 64, 64), torch.uint8)
    assert not bench.cache.exists()


def test_a_failed_side_says_why(tmp_path):
    bench = Bench("cpu", "model", "images", tmp_path, tmp_path)
    with pytest.raises(SideFailed, match=r"no_such_program.py --help ended with 2: .*can't open file"):
        bench.program("no_such_program.py", "--help")


def test_growth_is_compared_with_the_expected_growth():
    """With four times the pixels, cost may grow by four; here memory grows by eight and is flagged."""
    small = dict(zip(growth.COLUMNS, (80.0, 100.0, 2.0, 1.0, 0.1), strict=True))
    large = dict(zip(growth.COLUMNS, (20.0, 800.0, 8.0, 2.0, 0.1), strict=True))
    size, batch, images = growth.AXES
    assert growth.grown(size, 32, 64, small, large)["images/s"] == (4.0, 4.0)
    lines = growth.table(size, (32, 64), [small, large]).splitlines()
    assert lines[-2] == "| 32 | 80 | 100 | 2 | 1 | 0.1 |"
    cells = [cell.strip() for cell in lines[-1].split("|")]
    assert cells[2:4] == ["20 (x4.00 of x4)", "800 (x8.00 of x4, **too much**)"]
    assert "20 (x4.00 of x1, **too much**)" in growth.table(batch, (8, 32), [small, large])
    assert growth.grown(images, 100, 1000, small, large)["decoding, s"] == (2.0, 10.0)


def test_the_images_of_the_growth_tables_can_be_read_and_differ(tmp_path):
    growth.write_images(tmp_path / "images", 30)
    data = folder_data(str(tmp_path / "images"), image_size=16, resize="stretch")
    data.setup()
    assert len(data.image_set) == len(set(data.image_set.contents.tolist())) == 30
    assert len(data.validation_rows) < 15
