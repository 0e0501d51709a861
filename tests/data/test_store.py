"""The cache of decoded images: damage is noticed and mended, and a script needs no guard."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from chrysalis.data import store
from chrysalis.data.sources.folder import FolderSource
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.system.errors import UserError

SHAPE = (3, 16, 16)
SOURCE = REPOSITORY / "src"


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def inverted(file: Path) -> None:
    """Invert bytes in the middle; length and modification time stay."""
    status, data = file.stat(), bytearray(file.read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 64)
    data[middle] = bytes(255 - value for value in data[middle])
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [emptied, inverted, cut, Path.unlink])
@pytest.mark.parametrize("name", ["image.bin", "mask.bin", "rows.json", "checksums.json"])
def test_a_damaged_cache_is_decoded_again_with_a_warning(own_cache, damage, name, capsys):
    sound = store.open_set(DrawnSource("moths", 6), SHAPE, "crop")
    images, masks = sound.images.copy(), sound.columns["mask"].copy()
    capsys.readouterr()
    store.open_set(DrawnSource("moths", 6), SHAPE, "crop")
    assert "damaged" not in capsys.readouterr().err
    damage(sound.folder / name)
    again = store.open_set(DrawnSource("moths", 6), SHAPE, "crop")
    message = " ".join(capsys.readouterr().err.split())
    assert f"are damaged ({name}): decoding them again." in message
    assert (again.folder, again.names) == (sound.folder, sound.names)
    assert (again.images == images).all()
    assert (again.columns["mask"] == masks).all()
    assert store.damaged_file(again.folder) is None
    assert [p.name for p in own_cache.iterdir() if p.is_dir()] == [sound.folder.name]


def test_a_large_file_is_read_again_only_when_its_time_has_changed(own_cache, monkeypatch):
    folder = store.open_set(DrawnSource("moths", 6), SHAPE, "crop").folder
    monkeypatch.setattr(store, "ALWAYS_READ", 1000)
    inverted(folder / "image.bin")
    assert store.damaged_file(folder) is None
    os.utime(folder / "image.bin")
    assert store.damaged_file(folder) == "image.bin"


def test_a_worker_reports_an_emptied_cache(own_cache):
    folder = store.open_set(DrawnSource("moths", 6), SHAPE, "crop").folder
    emptied(folder / "image.bin")
    with pytest.raises(UserError, match="are damaged"):
        store.open_folder(folder)


def test_one_of_several_processes_repairs_a_cache(own_cache, monkeypatch):
    sound = store.open_set(DrawnSource("moths", 6), SHAPE, "crop")
    images, decode, calls = sound.images.copy(), store.decode, []
    emptied(sound.folder / "image.bin")
    monkeypatch.setattr(store, "decode", lambda *given: (calls.append(1), decode(*given)))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: store.open_set(DrawnSource("moths", 6), SHAPE, "crop"), range(4)))
    assert calls == [1]
    assert all((each.images == images).all() for each in found)


def test_files_that_go_away_are_left_out_and_those_in_the_cache_stay(image_folder, own_cache):
    source = FolderSource(str(image_folder))
    cached = store.open_set(source, SHAPE, "crop")
    first = cached.images.copy()
    gone = Path(source.row_name(3))
    shutil.copy(gone, gone.with_name("another.png"))
    gone.unlink()
    assert np.array_equal(store.open_folder(cached.folder).images, first)
    listed_before = store.open_set(source, (3, 24, 24), "crop")
    assert [name for name, _ in listed_before.rejected] == [str(gone)]
    assert len(listed_before) == 23
    now = store.open_set(FolderSource(str(image_folder)), SHAPE, "crop")
    assert (len(now), now.rejected) == (24, ())


def test_a_file_that_is_replaced_while_a_set_is_decoded_is_decoded_again_at_the_next_start(image_folder, own_cache):
    class Replaced(FolderSource):
        """Its last file changes after the first was read."""

        changed = threading.Event()

        def read(self, i, shape, resize):
            if i == 0:
                shutil.copy(self.rows[0].file, self.rows[-1].file)
                self.changed.set()
            assert self.changed.wait(10)
            return super().read(i, shape, resize)

    undisturbed = store.open_set(FolderSource(str(image_folder)), SHAPE, "crop").images.copy()
    os.utime(next(image_folder.rglob("*.png")))
    during = store.open_set(Replaced(str(image_folder)), SHAPE, "crop")
    after = store.open_set(FolderSource(str(image_folder)), SHAPE, "crop")
    assert during.folder != after.folder
    assert (during.images[:-1] == undisturbed[:-1]).all()
    assert (after.images[:-1] == undisturbed[:-1]).all()
    assert (after.images[-1] == undisturbed[0]).all()


def unguarded(tmp_path, script: str, threads: str = "1") -> list[str]:
    """What a script prints that has no `if __name__ == "__main__":`."""
    (tmp_path / "script.py").write_text(f"print('begins', flush=True)\n{script}")
    env = {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "CHRYSALIS_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": threads,
    }
    done = subprocess.run(
        [sys.executable, "script.py"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout.split()


def test_a_script_without_a_guard_starts_processes(tmp_path):
    script = (
        "import math, os\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from chrysalis.data.decoding import FreshContext\n"
        "with ProcessPoolExecutor(1, mp_context=FreshContext()) as pool:\n"
        "    print(list(pool.map(math.sqrt, [4.0, 9.0])) == [2, 3], __name__)\n"
        "    print(os.environ['OMP_NUM_THREADS'], *pool.map(os.getenv, ['OMP_NUM_THREADS']))\n"
    )
    here, in_worker = "4", "1"  # threads of NumPy
    assert unguarded(tmp_path, script, threads=here) == ["begins", "True", "__main__", here, in_worker]


@pytest.mark.proof  # three processes import torch
def test_a_script_without_a_guard_opens_a_set_and_loads_it_with_workers(tmp_path):
    script = (
        "import numpy as np\n"
        "from chrysalis.data.loaders import Order, BatchDataset, loader\n"
        "from chrysalis.data.synthetic.source import DrawnSource\n"
        "from chrysalis.data.store import open_set\n"
        "images = open_set(DrawnSource('moths', 200), (3, 16, 16), 'crop')\n"
        "batches = loader(BatchDataset(images, flip=False), Order(np.arange(200), 50, seed=0), num_workers=2)\n"
        "print(sum(len(batch.image) for batch in batches))\n"
    )
    assert unguarded(tmp_path, script) == ["begins", "200"]
