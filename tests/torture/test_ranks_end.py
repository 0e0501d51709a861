"""Two processes on one machine: an error in one ends both, and they stop together."""

import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import results
from two_processes import finished, started, weights


def test_an_error_of_one_ends_both_and_is_shown(tmp_path):
    """In the third step the second process fails, and only that one."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('LOCAL_RANK') == '1':\n"
        "    import chrysalis.denoiser as d, chrysalis.training.module as m\n"
        "    plain = m.TrainingModule.training_step\n"
        "    def step(self, batch, i):\n"
        "        if self.trainer.global_step == 2:\n"
        "            raise ValueError('the second process fails alone')\n"
        "        return plain(self, batch, i)\n"
        "    m.TrainingModule.training_step = step\n"
    )
    process = started(
        tmp_path,
        "name=a",
        "trainer.devices=2",
        "callbacks.checkpoint.every_n_train_steps=1",
        env={"PYTHONPATH": str(tmp_path)},
    )
    began = time.monotonic()
    code, output = finished(process)
    assert code != 0
    assert "ValueError: the second process fails alone" in output
    assert time.monotonic() - began < 60
    assert weights(tmp_path / "runs" / "a")["global_step"] == 2
    assert not (tmp_path / "runs" / "a" / "results.json").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_both_stop_at_the_same_step(tmp_path, signum, code):
    """The signal reaches the first alone; Ctrl-C exports, and is not killed while it does."""
    process = started(
        tmp_path,
        "name=a",
        "trainer.devices=2",
        "trainer.max_steps=100000",
        "callbacks.checkpoint.every_n_train_steps=100000",
    )
    samples = tmp_path / "runs" / "a" / "samples"
    for _ in range(600):
        if samples.is_dir() and any(samples.iterdir()):
            break
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signum)
    returned, output = finished(process)
    assert returned == code, output
    step = weights(tmp_path / "runs" / "a")["global_step"]
    assert 1 <= step < 100000
    if signum == signal.SIGINT:
        assert results(tmp_path / "runs" / "a")["steps"] == step
    assert "Traceback" not in output
