"""`make gpu` on a CPU: every part at a small size, its lines, its record, its budget and its exit code."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from conftest import REPOSITORY
from diffusers import UNet2DModel

from benchmarks.gpu import __main__ as entry
from benchmarks.gpu import program, training_figures
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import Figure, Part, at_most, require
from benchmarks.memory import CELEBAHQ

CHECKS = ["bf16", "channels_last", "fp16", "scaler", "device-data", "out-of-memory", "nonfinite", "nonfinite-fp16"]
FIGURES = ["matmul", "memory", "train-plain", "train", "sample", "small-train", "small-sample", "sample-plain"]
FIGURES += ["small-train-plain", "train-plain-bf16"]
COMMANDS = ["resume", "regenerate", "commands"]  # train.py and sample.py themselves
COMPILED = ["compile", "train-compiled", "sample-compiled"]


@pytest.fixture
def gpu(tmp_path, capsys):
    """gpu(*arguments) -> (exit code, lines, record)"""

    def call(*arguments: str) -> tuple[int, list[str], dict]:
        code = program.main(["--device", "cpu", "--out", str(tmp_path / "out"), *arguments])
        (file,) = (tmp_path / "out").iterdir()
        return code, capsys.readouterr().out.splitlines(), json.loads(file.read_text())

    return call


@pytest.fixture
def parts(monkeypatch):
    """parts(name=function) replaces the program's parts."""

    def use(**functions) -> None:
        made = tuple(Part(name, f"what {name} is", run, 1.0) for name, run in functions.items())
        monkeypatch.setattr(program, "PARTS", made)

    return use


def passed(record: dict, names: list[str]) -> dict[str, dict[str, float]]:
    """Require that these parts have passed; returns their figures."""
    assert list(record["parts"]) == [part.name for part in program.PARTS if part.name in names]
    assert {name: part.get("reason") for name, part in record["parts"].items()} == dict.fromkeys(record["parts"])
    return {name: {f["name"]: f["value"] for f in part["figures"]} for name, part in record["parts"].items()}


def test_every_part_is_run_by_a_test():
    assert {part.name for part in program.PARTS} == {*CHECKS, *FIGURES, *COMMANDS, *COMPILED}


@pytest.mark.proof
def test_checks_pass_on_a_cpu(gpu):
    code, lines, record = gpu("--only", ",".join(CHECKS))
    found = passed(record, CHECKS)
    assert code == 0
    assert 0 < next(iter(found["bf16"].values())) < 3e-2
    assert 0 < found["scaler"]["updates of 20 skipped until the loss scale fits"] < 20
    assert found["out-of-memory"]["parts of a micro-batch of 4"] == 2
    assert re.match(r" *\d+ s  bf16 +largest relative difference of 5 losses: \S+$", lines[1])
    assert re.match(r" *\d+ s  bf16 +passed \(\d+\.\d s\)$", lines[2])
    assert lines[-1].startswith(f"{len(CHECKS)} parts in ")
    assert f"{len(CHECKS)} passed; written: " in lines[-1]


@pytest.mark.proof
def test_figures_are_measured_on_a_cpu(gpu):
    code, _, record = gpu("--only", ",".join(FIGURES))
    found = passed(record, FIGURES)
    assert code == 0
    assert found["matmul"]["bf16 matrix products"] > 0
    assert 0.7 < next(v for name, v in found["memory"].items() if "without its margin" in name) < 1.3
    ratio = next(v for name, v in found["train-plain"].items() if "faster by a factor" in name)
    ours, plain = (next(iter(found[name].values())) for name in ("train", "train-plain"))
    assert ratio == pytest.approx(ours / plain)
    measured = record["parts"]["train"]["measured"]
    assert set(measured) == {"date", "commit", "command", "versions"}
    assert str(REPOSITORY) not in json.dumps(record)


@pytest.mark.proof
def test_commands_pass_on_a_cpu(gpu):
    code, _, record = gpu("--only", ",".join(COMMANDS))
    passed(record, COMMANDS)
    assert code == 0


@pytest.mark.proof
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_parts_pass_on_a_cpu(gpu):
    code, _, record = gpu("--only", ",".join(COMPILED))
    passed(record, COMPILED)
    assert code == 0


def test_a_failed_part_is_reported_and_the_others_run(gpu, parts):
    def bad(bench):
        yield Figure("half", 0.5)
        require(False, "it is not as it should be")

    def broken(bench):
        yield from {}[bench]

    def good(bench):
        yield Figure("whole", 12345.6, "images/s")

    parts(bad=bad, broken=broken, good=good)
    code, lines, record = gpu()
    assert code == 1
    assert any(line.endswith("bad              FAILED: it is not as it should be") for line in lines)
    assert any(line.endswith("good             whole: 12,346 images/s") for line in lines)
    assert "3 parts in" in lines[-1]
    assert "1 passed, 2 failed" in lines[-1]
    bad, broken, good = record["parts"].values()
    assert (bad["status"], broken["status"], good["status"]) == ("failed", "failed", "passed")
    assert bad["figures"] == [{"name": "half", "value": 0.5, "unit": ""}]
    assert "Traceback" in broken["reason"]
    assert "KeyError" in broken["reason"]


@pytest.mark.proof
def test_the_record_is_written_after_every_figure_and_keeps_earlier_parts(gpu, parts, tmp_path):
    recorded = []

    def first(bench):
        yield Figure("a", 1)
        (file,) = (tmp_path / "out").iterdir()
        recorded.append(json.loads(file.read_text())["parts"]["first"])
        yield Figure("b", 2)

    parts(first=first, second=lambda bench: iter(()))
    assert gpu()[0] == 0
    assert recorded[0]["status"] == "running"
    assert [f["name"] for f in recorded[0]["figures"]] == ["a"]
    _, _, record = gpu("--only", "second")
    assert list(record["parts"]) == ["first", "second"]
    assert [f["value"] for f in record["parts"]["first"]["figures"]] == [1, 2]


@pytest.mark.proof
def test_the_budget_is_kept(gpu, parts):
    """A part that takes too long is cut off although it catches exceptions, and the next one is skipped."""

    def endless(bench):
        yield Figure("begun", 1)
        while True:
            with contextlib.suppress(Exception):
                time.sleep(60)

    parts(endless=endless, next=lambda bench: iter(()))
    began = time.perf_counter()
    code, lines, record = gpu("--budget", "2")
    assert time.perf_counter() - began < 10
    assert code == 0
    assert record["parts"]["endless"]["status"] == "cut off"
    assert record["parts"]["endless"]["figures"][0]["name"] == "begun"
    assert record["parts"]["next"]["status"] == "skipped"
    assert "1 cut off, 1 skipped" in lines[-1]


def test_the_parts_fit_the_budget_in_their_order():
    """With half a minute of imports, at most the last part is skipped on an H100, on which `needs` was measured."""
    assert sum(part.needs for part in program.PARTS[:-1]) + 30 <= program.BUDGET


def test_the_timer_stops_outside():
    with at_most(5):
        pass
    time.sleep(0.01)


@pytest.mark.proof  # builds 114 M weights
def test_the_flop_count_is_the_published_models():
    """1.49 TFLOP forward and backward at 256 px, three times the 497 GFLOP of a forward pass."""
    assert training_figures.tflop_an_image(UNet2DModel(**CELEBAHQ), 256) == pytest.approx(1.49, rel=0.01)


def test_a_part_leaves_torch_unchanged(tmp_path):
    before, here = (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark), os.getcwd()
    with Bench(torch.device("cpu"), tmp_path).isolated():
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = True
        torch.use_deterministic_algorithms(True)
        os.environ["CHRYSALIS_NO_SUCH_NAME"] = "1"
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CHRYSALIS_NO_SUCH_NAME" not in os.environ
    assert os.getcwd() == here


def test_a_missing_gpu_is_reported(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert program.main([]) == 2
    assert "finds no NVIDIA GPU here: python -m benchmarks.gpu --device cpu" in capsys.readouterr().err


def test_missing_packages_are_named(tmp_path):
    message = entry.missing({"torch": "torch", "hydra-core": "no_such_hydra", "rich": "no_such_rich"})
    assert message.startswith("2 packages are missing from ")
    assert "python -m pip install hydra-core rich" in message
    assert entry.missing() is None
    # an interpreter without site-packages, in the repository's folder
    done = subprocess.run(
        [sys.executable, "-S", "-m", "benchmarks.gpu"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert re.fullmatch(r"\d+ packages are missing from .*\n", done.stderr)
