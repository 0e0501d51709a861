"""A few of the inputs of tests/torture, always the same ones."""

import os
import subprocess
import sys

from conftest import REPOSITORY

TORTURE = REPOSITORY / "tests" / "torture" / "test_bad_inputs.py"


def test_a_few_bad_inputs():
    """In a process of its own: what a fork inherits must be free of other tests' threads."""
    words = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", "-q", str(TORTURE)]
    settings = {"BAD_INPUTS": "10", "BAD_INPUTS_SEED": "7"}
    done = subprocess.run(words, cwd=REPOSITORY, env={**os.environ, **settings}, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()[-5000:]
