import os

import pytest

from chrysalis.system.files import written, written_folder


def fail_halfway(kind, target):
    with kind(target) as partial:
        (partial / "new" if partial.is_dir() else partial).write_text("half")
        raise OSError("disk full")


def test_a_file_is_complete_or_absent(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        fail_halfway(written, tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
    with written(tmp_path / "a.txt") as partial:
        partial.write_text("first")
    with pytest.raises(OSError, match="disk full"):
        fail_halfway(written, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    with written_folder(tmp_path / "model") as partial:
        (partial / "weights").write_text("w")
        (partial / "weights").chmod(0o600)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_is_complete_or_absent_and_replaced_whole(tmp_path):
    with written_folder(tmp_path / "set") as partial:
        (partial / "old").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        fail_halfway(written_folder, tmp_path / "set")
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["old"]
    with written_folder(tmp_path / "set") as partial:
        (partial / "new").write_text("new")
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
