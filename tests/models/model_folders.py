"""Helpers to change model folders and to read why one is refused."""

import json
import os

import pytest
from conftest import TINY_RUN

from chrysalis.models import folder
from chrysalis.system.errors import UserError


def rewrite(file, **settings):
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def refusal(at, **how) -> str:
    with pytest.raises(UserError) as error:
        folder.load(str(at), **how)
    assert "\n" not in str(error.value)
    return str(error.value)


class Harm:
    """An object whose unpickling makes a folder."""

    def __init__(self, at):
        self.at = str(at)

    def __reduce__(self):
        return os.mkdir, (self.at,)


def train_and_resume(run, *overrides: str) -> None:
    """Train runs/a for four steps with evaluations of its samples, then resume it for two more."""
    evaluated = ["callbacks.evaluate.n=16", "callbacks.evaluate.every_n_train_steps=2", "callbacks.evaluate.steps=2"]
    assert run("train", *overrides, *TINY_RUN, *evaluated, "name=a") == 0
    assert run("train", "resume=runs/a", "trainer.max_steps=6") == 0
