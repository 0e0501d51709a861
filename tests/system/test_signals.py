"""Signals while a program loads: an exit code, no traceback, no files. Later ones: test_stopping, test_sample."""

import signal
import subprocess
import sys

import pytest

from chrysalis.models import families

IMPORTING = """
import os, signal
from chrysalis.system.signals import leaving_silently
with leaving_silently():
    pass
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
with leaving_silently():
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("program", ["train", "sample"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_while_a_model_is_loaded(run, tmp_path, monkeypatch, capfd, program, signum, code):
    monkeypatch.setattr(families, "load", lambda *given: signal.raise_signal(signum))
    before = signal.getsignal(signum)
    assert run(program, "model.pretrained=assets/moths-64", "name=a" if program == "train" else "out=o/a") == code
    assert "Traceback" not in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signum) is before


def test_while_libraries_are_imported():
    done = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
