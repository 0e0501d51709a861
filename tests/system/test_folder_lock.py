"""One process at a time holds a run's or a sample's folder, until it ends in whatever manner."""

import os
import subprocess
import sys
from pathlib import Path

import lightning  # noqa: F401 -- it reads LOCAL_RANK when it is imported, which a test here changes
import pytest

from chrysalis.system.errors import UserError
from chrysalis.system.files import claimed

HOLD = """
import sys, time
from pathlib import Path
from chrysalis.system.files import claimed
with claimed(Path(sys.argv[1]), "name"):
    print("has it", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_no_claim(tmp_path):
    folder = tmp_path / "runs" / "a"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "has it\n"
        refused = pytest.raises(UserError, match=r"a is in use by another process.* choose another name")
        with refused, claimed(folder, "name"):
            pass
        other.kill()
    for _ in range(2):
        with claimed(folder, "name"):
            assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "typed"), [("train", "name=a"), ("train", "resume=runs/a"), ("sample", "out=runs/a")]
)
def test_a_folder_in_use_is_refused(run, tmp_path, capfd, program, typed):
    """Nothing is written, and the other process keeps its empty folder."""
    folder = tmp_path / "runs" / "a"
    with claimed(folder, "name"):
        assert run(program, typed) == 2
        assert "runs/a is in use by another process" in capfd.readouterr().err
        assert [*tmp_path.rglob("*")] == [tmp_path / "runs", folder]


def test_processes_of_one_run_share_its_folder(run, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with claimed(tmp_path / "runs" / "a", "name"):
        assert run("train", "name=a", "data=folder", "data.path=nowhere") == 2
    assert "data.path=nowhere" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    """Before a model is loaded."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    Path("out").mkdir(mode=0o555)
    root = os.geteuid() == 0  # whom permissions do not stop
    if root:
        os.seteuid(65534)
    try:
        refused = pytest.raises(UserError, match=r"out cannot be written to: .* choose another out\.$")
        with refused, claimed(Path("out"), "out"):
            pass
    finally:
        if root:
            os.seteuid(0)
