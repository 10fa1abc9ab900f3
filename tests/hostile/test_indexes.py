"""Indexes of datasets, and the shards that they name."""

import contextlib
import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpot_scale.data.store.dataset import INDEX, SPLITS, read_store
from dpot_scale.data.store.digest import dataset_digest
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.data.stream.reader import training_windows
from dpot_scale.errors import UserError

mutations = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("mutations.py"))))

FORMATS = Path(__file__).parents[1] / "golden" / "formats"
STORES = [FORMATS / "store" / "dr_pdb_generated", *sorted((FORMATS / "second" / "store").iterdir())]


def tolerated(folder: Path) -> None:
    """Open a dataset, read of each split what training and evaluation would, and verify it."""
    with contextlib.suppress(UserError), contextlib.closing(read_store(folder)) as store:
        dataset_digest(read_index(folder / INDEX))
        verify_dataset(store)
        for split in SPLITS:
            for trajectory in range(min(2, store.num_trajectories(split))):
                frames = min(3, store.num_frames(split, trajectory))
                with contextlib.suppress(UserError):
                    store.read(split, trajectory, 0, frames)
        training_windows({folder.name: store}, 5)


@pytest.mark.parametrize("good", STORES, ids=lambda path: path.name)
def test_odd_indexes(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "store" / good.name)
    index = json.loads((good / INDEX).read_text())

    @given(
        st.one_of(
            mutations.mutated_json(index).map(lambda raw: json.dumps(raw).encode()),
            mutations.mutated_bytes((good / INDEX).read_bytes(), head=10**6),
        )
    )
    def try_one(content: bytes) -> None:
        (folder / INDEX).write_bytes(content)
        tolerated(folder)

    try_one()


SHARDS = [store / "train" / "shard-00000.h5" for store in STORES]


@pytest.mark.parametrize("good", SHARDS, ids=lambda path: path.parts[-3])
def test_odd_shards(good: Path, tmp_path: Path) -> None:
    store = good.parents[1]
    folder = shutil.copytree(store, tmp_path / "store" / store.name)
    intact = good.read_bytes()
    bytes_of_one = mutations.mutated_bytes(intact)

    def as_long(content: bytes) -> bytes:
        """What is seen before anything is read: another size."""
        return content[: len(intact)].ljust(len(intact), b"\0")

    @given(st.one_of(bytes_of_one, bytes_of_one.map(as_long)))
    def try_one(content: bytes) -> None:
        (folder / good.relative_to(store)).write_bytes(content)
        tolerated(folder)

    try_one()
