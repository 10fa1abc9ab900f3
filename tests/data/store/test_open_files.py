"""Files that stay open: after a read that failed nothing is read that was held before."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.open_files import OpenFiles, Reading
from dpot_scale.prepare import main

FRAMES = 20
# Reads windows, each again after an outage: of two stores of a folder, of which a thread has the
# files open, in a forked process and in this one.
READ_AGAIN = """
import os, sys, threading
from pathlib import Path
import numpy as np
from dpot_scale.data.store.dataset import open_store
from dpot_scale.data.store.faults import may_pass
from dpot_scale.errors import DataError

root, truth, away = Path(sys.argv[1]), np.load(sys.argv[2]), Path(os.environ["AWAY"])
mine, other = open_store(root, "noise"), open_store(root, "noise")
random = np.random.default_rng(0)

def window():
    return int(random.integers(len(truth))), int(random.integers(truth.shape[1] - 3))

def check(store, row, first):
    assert np.array_equal(store.read("train", row, first, 3), truth[row, first : first + 3])

def hold(held, over):
    for store in (mine, other):
        check(store, *window())
    held.set()
    over.wait()

def outage():
    held, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold, args=(held, over), daemon=True)
    thread.start()
    held.wait()
    check(mine, *window())
    row, first = window()
    away.touch()
    try:
        check(mine, row, first)  # what is held of it may be read
        failed = 0
    except DataError as error:
        assert may_pass(error), error
        failed = 1
    away.unlink()
    check(mine, row, first)
    check(other, row, first)
    over.set()
    thread.join()
    return failed

check(mine, *window())
child = os.fork()
if child:
    os.waitpid(child, 0)
print(sum(outage() for _ in range(20)), flush=True)
"""


def _noise(file: Path, *, chunked: bool) -> Path:
    """Write trajectories of which a window of three frames fits into HDF5's buffer."""
    how = {"chunks": (1, 1, 2, 24, 24), "compression": "gzip"} if chunked else {}
    fields = np.random.default_rng(0).normal(size=(8, FRAMES, 2, 24, 24)).astype(np.float32)
    with h5py.File(file, "w") as content:
        content.create_dataset("u", data=fields, **how)
    return file


@pytest.mark.parametrize("kind", ["shards", "a view", "a view of chunks", "a view of .npy"])
def test_what_is_read_after_an_outage_is_what_is_stored(
    kind: str, tmp_path: Path, run_with_outages: Callable[..., str]
) -> None:
    """HDF5 gives out what its buffer held before, as long as any handle of the file is open."""
    file, root = _noise(tmp_path / "noise.h5", chunked="chunks" in kind), tmp_path / "data"
    if ".npy" in kind:
        with h5py.File(file) as content:
            np.save(file := tmp_path / "noise.npy", content["u"])
    how = ["--link"] if "view" in kind else []
    assert main(["import", str(file), "--layout", "NTCXY", *how, "--out", str(root)]) == 0
    store = open_store(root, "noise")
    rows = range(store.num_trajectories("train"))
    np.save(tmp_path / "truth.npy", [store.read("train", row, 0, FRAMES) for row in rows])
    failed = run_with_outages(READ_AGAIN, root, tmp_path / "truth.npy").split()
    assert len(failed) == 2
    assert min(map(int, failed)) > 10


def test_threads_read_while_all_files_are_closed_again_and_again(make_store) -> None:
    stores = [make_store(name, train=3, channels=(name,)) for name in ("a", "b")]
    expected = [[store.read("train", row, 1, 2) for row in range(3)] for store in stores]
    wrong: list[object] = []

    def read(number: int) -> None:
        for turn in range(200):
            try:
                found = stores[number].read("train", turn % 3, 1, 2)
            except Exception as error:
                wrong.append(error)
            else:
                wrong.extend([turn] * (not np.array_equal(found, expected[number][turn % 3])))

    threads = [
        threading.Thread(target=read, args=(number,), daemon=True) for number in (0, 0, 1, 1)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        OpenFiles.close_all()
    assert wrong == []


def test_nothing_is_closed_while_another_thread_reads(make_store) -> None:
    """Training reads in one thread and evaluates in another; a linked dataset has many files."""
    store = make_store("a", train=3)
    shard = str(store.folder / store.shards["train"][0].file)
    thread = threading.Thread(target=lambda: (store.close(), store.read("train", 1, 0, 1)))
    with Reading():
        fields = store._files.array(shard, "fields")
        thread.start()
        thread.join(0.3)
        assert fields.shape == (3, 6, 1, 4, 4), "still open"
    thread.join()
    assert not fields, "closed"


def _read_in_child(store: DatasetStore, answers: Connection) -> None:
    answers.send(store.read("train", 1, 0, 2).tolist())


def test_a_process_is_not_forked_while_a_thread_reads(make_store) -> None:
    """The thread is not there in the new process, and could not let the others read."""
    store, reads = make_store(), threading.Event()
    expected = store.read("train", 1, 0, 2).tolist()

    def read() -> None:
        with Reading():
            reads.set()
            time.sleep(0.3)

    thread = threading.Thread(target=read)
    thread.start()
    reads.wait()
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(store, theirs))
    child.start()
    try:
        assert ours.poll(30), "the child has not answered"
        assert ours.recv() == expected
    finally:
        child.kill()
        child.join()
        thread.join()
    assert store.read("train", 1, 0, 2).tolist() == expected
