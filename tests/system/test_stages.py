"""The progress of a stage at every width, in a terminal and in a pipe; an outer stage pauses for an inner one."""

import io
import itertools
import re

import pytest
from rich.console import Console
from rich.live import Live

from chrysalis.system import terminal
from chrysalis.system.terminal import Stage

FIGURES = "loss 0.1234 (step 3190)  39.0 images/s"


@pytest.fixture(autouse=True)
def no_stages(monkeypatch):
    """Begin without stages, whatever an interrupted run in the same process left."""
    monkeypatch.setattr(terminal, "_running", [])


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: clock[0] = seconds."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("columns", [50, 80, 120])
@pytest.mark.parametrize("name", ["training", "base model's loss", "validation loss, EMA", "evaluation features"])
def test_a_row_fits_a_terminal(clock, columns, name):
    console = Console(width=columns, file=io.StringIO(), force_terminal=True, color_system=None)
    made = Stage(name, 12_800)
    made.figures = FIGURES if name == "training" else ""
    clock[0] = 100.0
    made.done = 3_200
    console.print(made.row(columns))
    row = console.file.getvalue().splitlines()
    assert len(row) == 1, "one line"
    assert len(row[0]) <= columns
    assert row[0].startswith(name)
    assert "3200/12800" in row[0]
    assert row[0].rstrip().endswith("5:00 left"), "a quarter took 100 s"
    assert name != "training" or (FIGURES in row[0]) == (columns >= 80)


@pytest.mark.parametrize("notebook", [False, True])
def test_in_a_pipe_and_in_a_notebook_there_is_a_line_every_ten_seconds(clock, monkeypatch, notebook):
    console = Console(width=80, file=io.StringIO(), force_jupyter=notebook, record=True)
    monkeypatch.setattr(terminal, "console", console)
    with terminal.stage("validation loss", 10) as at:
        for second in range(1, 31, 5):
            clock[0] = second
            at.advance(1)
    said = console.export_text()
    assert said == "validation loss 3/10  0:26 left\nvalidation loss 5/10  0:21 left\n", "at 11 s and at 21 s"
    assert "\r" not in said


def test_an_outer_stage_stands_still_while_an_inner_one_runs(clock):
    with terminal.stage("training", 4) as training:
        clock[0] = 10.0
        training.advance(1)
        with terminal.stage("validation loss", 2) as at:
            clock[0] = 100.0
            at.advance(1)
            assert training.seconds() == 10.0
            assert at.left() == "1:30 left"
        assert training.left() == "0:30 left"
        clock[0] = 105.0
        assert training.seconds() == 15.0
    assert terminal._running == []


def test_a_stage_that_is_interrupted_is_gone(clock):
    def leave() -> None:
        with terminal.stage("training"), terminal.stage("export"):
            raise SystemExit(130)

    with pytest.raises(SystemExit):
        leave()
    assert terminal._running == []
    assert not terminal._live.is_started


def test_a_terminal_shows_the_innermost_stage_and_keeps_no_row(monkeypatch):
    """Each stage begins with its row; messages in between stay, and the last row is erased."""
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    live = Live(console=console, get_renderable=terminal._live.get_renderable, auto_refresh=False, transient=True)
    monkeypatch.setattr(terminal, "console", console)
    monkeypatch.setattr(terminal, "_live", live)
    with terminal.stage("training", 4):
        with terminal.stage("validation loss", 2):
            terminal.say("a message")
        assert terminal._live.is_started
    with terminal.stage("export"):
        pass
    written = console.file.getvalue()
    found = re.findall("training|validation loss|a message|export", written)
    shown = ["training", "validation loss", "a message", "validation loss", "training", "export"]
    assert [name for name, _ in itertools.groupby(found)] == shown
    assert written.endswith("\x1b[1A\x1b[2K"), "one line up, which is erased"


def test_what_continues_counts_its_speed_from_there(clock):
    made = Stage("training", 300, done=100)
    assert made.left() == "-:-- left"
    clock[0] = 10.0
    made.advance(10)
    assert made.left() == "3:10 left", "1 s each, 190 are left"
