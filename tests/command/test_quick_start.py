"""Libraries that are left out at the start can be imported when they are needed."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY, TINY_MODEL, TINY_RUN, results

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.proof  # imports everything in a process of its own
def test_left_out_at_first_and_imported_as_ever_afterwards():
    program = """
import sys
from chrysalis.command.quick_start import import_libraries
import_libraries()
assert not {"transformers", "matplotlib", "peft"} & set(sys.modules)
import lightning, matplotlib, peft, scipy.signal, transformers
from diffusers import DDPMPipeline, LMSDiscreteScheduler
LMSDiscreteScheduler(), lightning.Trainer, transformers.AutoModel, peft.LoraConfig, scipy.signal.windows.hann
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, env=ENVIRONMENT)


@pytest.mark.proof  # every sweep of tests/command/test_sweep.py runs in its own processes too
def test_a_run_in_its_own_process(tmp_path, text_encoder_folder):
    """A run that needs all of them: a text encoder, peft, scipy for LMS, and matplotlib."""
    what = [
        "condition=[text,label]",
        f"condition.text.encoder={text_encoder_folder}",
        "callbacks.samples.scheduler=lms",
    ]
    what += ["adapter=lora", "adapter.rank=2", "adapter.merge=false", "model.attention_levels=[1]"]
    command = [
        sys.executable,
        str(REPOSITORY / "train.py"),
        *TINY_MODEL,
        *TINY_RUN,
        "data.n=30",
        "name=a",
        "export.report=true",
        *what,
    ]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "runs" / "a")
    assert 0 < found["seconds_to_first_step"] < found["seconds"]
    assert found["peak_memory_mib"] > 100
    assert (tmp_path / "runs" / "a" / "loss.png").is_file()
