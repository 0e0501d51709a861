"""Helpers to change model folders and to read why one is refused."""

import json

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
