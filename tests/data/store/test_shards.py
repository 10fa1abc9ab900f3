"""Shards: a window is one read of what was written, or a sentence."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.store.dataset import (
    DatasetStore,
    open_store,
)
from dpot_scale.data.store.open_files import open_hdf5
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.errors import DataError


def test_only_the_frames_of_a_window_are_read(make_store) -> None:
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("the system does not count the bytes that are read")

    def bytes_read() -> int:
        return int(counter.read_text().split()[1])

    store = make_store(train=2, frames=200, grid=32)
    store.read("train", 0, 0, 1)  # opens the file
    before = bytes_read()
    store.read("train", 1, 150, 10)
    window, trajectory = 10 * 32 * 32 * 4, 200 * 32 * 32 * 4
    assert window <= bytes_read() - before < 2 * window < trajectory / 8


@pytest.mark.parametrize("cut", ["fields", "all"])
def test_a_shard_that_is_cut_while_it_is_open_is_not_read_as_zeros(cut: str, make_store) -> None:
    store = make_store("a", train=3, frames=200, grid=32, shard_bytes=2**24)
    file = store.folder / store.shards["train"][0].file
    store.read("train", 0, 0, 1)  # opens it
    size = file.stat().st_size
    os.truncate(file, 0 if cut == "all" else size // 2)
    with pytest.raises(DataError, match=rf"cannot read {file} \(cut from {size:,} to .* bytes"):
        store.read("train", 2, 0, 200)


def test_a_file_of_another_shape_or_type_is_not_read(make_store) -> None:
    store = make_store("a", channels=("u", "v"))
    for fields in (
        np.zeros((3, 6, 1, 4, 4)),
        np.zeros((3, 6, 2, 4, 4), "S3"),
        np.zeros((2, 6, 2, 4, 4)),
    ):
        with h5py.File(store.folder / store.shards["train"][0].file, "r+") as file:
            del file["fields"]
            file["fields"] = fields
        with pytest.raises(
            DataError, match=r"it holds .* where index.json says real numbers \(3, 6"
        ):
            open_store(store.folder.parent, "a").read("train", 0, 0, 1)


def _read_in_child(store: DatasetStore, answers: Connection) -> None:
    answers.send(store.read("train", 1, 0, 2).tolist())


def test_an_open_store_survives_a_fork(make_store) -> None:
    store = make_store()
    expected = store.read("train", 1, 0, 2).tolist()  # the parent's handle is open
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(store, theirs))
    child.start()
    assert ours.poll(30), "the child has not answered"
    assert ours.recv() == expected
    child.join()
    assert store.read("train", 1, 0, 2).tolist() == expected


HOLD = (
    "import fcntl, sys, h5py; file = open(sys.argv[1], 'r+'); "
    "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def held_by_another() -> Iterator[Callable[[Path], None]]:
    """Lock a file as HDF5 does in a process that writes to it."""
    holders = []

    def hold(file: Path) -> None:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

    yield hold
    for holder in holders:
        holder.communicate()


def test_a_file_that_another_program_has_locked_is_read(make_store, held_by_another) -> None:
    store = make_store()
    held_by_another(store.folder / store.shards["train"][0].file)
    assert store.read("train", 0, 0, 2).shape == (2, 1, 4, 4)
    assert verify_dataset(store).problems == []


READ = """
import sys
from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.store.dataset import open_store
from dpot_scale.errors import DataError
from pathlib import Path
file = Path(sys.argv[1])
root = file.parents[2]
for read in (lambda: recognise(file), lambda: open_store(root, 'coded').read('train', 0, 0, 1)):
    try:
        read()
    except DataError as error:
        print(error)
"""


def test_a_lock_that_the_user_asks_for_is_no_damage(make_store, held_by_another) -> None:
    """HDF5 obeys its variable before what the program says."""
    store = make_store()
    file = store.folder / store.shards["train"][0].file
    held_by_another(file)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(file)],
        env=os.environ | {"HDF5_USE_FILE_LOCKING": "TRUE"},
        capture_output=True,
        text=True,
        check=False,
    )
    sentences = done.stdout.splitlines()
    assert len(sentences) == 2, done.stderr
    for sentence in sentences:
        assert sentence.startswith(f"cannot lock {file} (Resource temporarily unavailable)")
        assert "set HDF5_USE_FILE_LOCKING=FALSE" in sentence
        assert "again" not in sentence


@pytest.mark.parametrize("locking", [None, True, "best-effort"])
def test_a_file_that_is_open_with_a_lock_in_this_process_is_read(locking, make_store) -> None:
    store = make_store()
    file = store.folder / store.shards["train"][0].file
    with h5py.File(file, "r", locking=locking):
        assert store.read("train", 0, 0, 2).shape == (2, 1, 4, 4)


def test_a_file_that_is_read_is_not_locked(make_store) -> None:
    """Neither for other libraries of this process nor for other programs."""
    store = make_store()
    file = store.folder / store.shards["train"][0].file
    store.read("train", 0, 0, 2)
    with h5py.File(file) as again:
        assert again["fields"].shape == (3, 6, 1, 4, 4)
    program = "import h5py, sys; h5py.File(sys.argv[1], 'r+').close()"
    subprocess.run([sys.executable, "-c", program, str(file)], check=True)


def test_a_file_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    """Its writer, or one that was killed, has left a mark in it."""
    file = tmp_path / "a.h5"
    with h5py.File(file, "w", libver="latest") as content:
        content["data"] = np.zeros(3)
    with h5py.File(file, "r+", libver="latest"):
        shutil.copy(file, tmp_path / "b.h5")
    for read in (open_hdf5, recognise):
        with pytest.raises(DataError, match=rf"{tmp_path / 'b.h5'} is being written.*h5clear"):
            read(tmp_path / "b.h5")
