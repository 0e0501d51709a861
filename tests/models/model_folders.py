"""Helpers to change model folders and to read why one is refused."""

import json
import os

import pytest

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
