"""Paths and texts of the command line reach both programs as they were typed, whatever they contain."""

import os
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from chrysalis.command import arguments
from chrysalis.command.arguments import as_typed, value_of
from chrysalis.conditions.kinds import KINDS
from chrysalis.system.errors import UserError

ODD = ["/tmp/Zürich", "a & b", "lady (garden)", "it's", "#1", "2024=07", "a, b", "x=1 (y) & z", 'a "red" moth', "a\\b"]
ODD += [
    "c\\",
    "{a}",
    "f(x)",
    "'tis a moth",
    "[blue] moth",
    "é ~ #1",
    "1e3",
    "5",
    "true",
    "choice(a,b)",
    "glob(*)",
    "nan",
]
KEYS = ["data.path", "data.masks", "model.pretrained", "task.image", "task.mask", "task.base", *KINDS]
KEYS += ["out", "name", "from", "guidance.silhouette.mask", "guidance.reference.image", "guidance.function"]
KEYS += ["guidance.domain.base", "guidance.autoguidance.checkpoint", "guidance.negative.text", "features.weights"]
KEYS += ["features.pretrained", "data.caption_column", "condition.text.encoder", "+guidance.clip.text"]
KEYS += ["guidance.negative.mask"]


def read(argument: str, *others: str):
    """The value that Hydra's own parser reads."""
    return OverridesParser.create().parse_override(as_typed([argument, *others])[0]).value()


@pytest.mark.parametrize("text", ODD)
def test_values_are_as_they_were_typed(text):
    for key in KEYS:
        assert read(f"{key}={text}") == text, key
    (once,) = as_typed([f"data.path={text}"])
    assert as_typed([once]) == [once]  # processes that Lightning starts read the arguments again


def test_lists_switches_and_what_is_quoted_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for typed in (
        "text=[a,b]",
        'label="a, b"',
        "label=null",
        "label=all",
        "mask=butterflies",
        "resume=true",
        "resume=",
    ):
        assert as_typed([typed]) == [typed]
    for typed in (
        "guidance=[colour,symmetry]",
        "resume=",
        "steps=40",
        "guidance.classifier.label=3",
        "out=samples/${seed}",
    ):
        assert as_typed([typed]) == [typed]
    assert as_typed(["text=a ${b}"]) == ['text="a \\${b}"']
    assert read("data.path=[old]") == "[old]"
    assert read("mask=[old]") == ["old"]
    assert read("plugins=[runs/a (b),runs/c & d]") == ["runs/a (b)", "runs/c & d"]
    (tmp_path / "[old]").mkdir()
    assert read("mask=[old]") == "[old]"
    assert value_of('from="a, b.png"') == "a, b.png"


def test_a_tilde_is_the_home_folder_of_a_path():
    for key in ("data.path", "out", "task.mask", "resume", "model.pretrained"):
        assert read(f"{key}=~/Images") == os.path.expanduser("~/Images")
    assert read("text=~/Images") == "~/Images"


def test_every_kind_of_condition_is_known():
    assert {*arguments.KINDS} == {*KINDS}


def test_in_a_sweep_a_comma_separates():
    for typed in ("text=a,b", "data.path=choice(a,b)", 'text="a, b",c', "name=5"):
        assert as_typed([typed, "-m"]) == [typed, "-m"]
    assert read("data.path=lady (garden)", "-m") == "lady (garden)"
    with pytest.raises(UserError, match=r"""'text="a, b","c \(d\)"'"""):
        as_typed(["-m", "text=a moth, on a (leaf)"])
    with pytest.raises(HydraException):  # keys with other values keep Hydra's grammar
        OverridesParser.create().parse_override(*as_typed(["optimizer.lr=a & b"]))


def test_both_programs_read_them(run, tmp_path, capfd):
    for path in ("lady (garden), it's #1 & Zürich", "[2024=07]"):
        assert run("train", "data=folder", f"data.path={path}") == 2
        assert f"data.path={path} " in capfd.readouterr().err
        assert run("sample", f"model.pretrained={path}", "out=a, b (c)") == 2
        assert f"model.pretrained={path} " in capfd.readouterr().err
        assert run("sample", f"from={path}") == 2
        assert f"from={path} has no record" in capfd.readouterr().err
    assert run("train", "-m", "seed=1,2", "data.path=a, (b)") == 2
    assert "in a sweep a comma separates values" in capfd.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []
