"""What is missing is found before a training, without reading what is there."""

import errno
import os
import shutil

import h5py
import pytest

from dpot_scale.data.store import completeness, open_files
from dpot_scale.data.store.completeness import check_complete, check_largest
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.errors import DataError, MachineError


@pytest.fixture
def store(make_store) -> DatasetStore:
    """Shards of one trajectory each."""
    return make_store(train=6, test=2, shard_bytes=1)


def test_a_complete_dataset_passes(store: DatasetStore) -> None:
    check_complete(store)


def test_files_that_are_missing_are_named_and_counted(store: DatasetStore) -> None:
    for number in (1, 3, 4, 5):
        (store.folder / store.shards["train"][number].file).unlink()
    with pytest.raises(DataError) as refused:
        check_complete(store)
    assert refused.match(r"^dataset coded is not complete: .*shard-00001.h5 \(No such file or dir")
    assert refused.match(r"shard-00004.h5 \(.*\); and 1 more files; restore what is missing or ")
    check_complete(store, ["test"])


def test_a_shard_that_is_too_short_is_named(store: DatasetStore) -> None:
    shard = store.folder / store.shards["test"][1].file
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(DataError, match=f"{shard} has 300 bytes, and its fields alone have 384; "):
        check_complete(store)
    check_complete(store, ["train"])


def test_the_end_of_the_largest_file_is_read(make_store) -> None:
    store = make_store(train=3)
    shard = store.folder / store.shards["train"][0].file
    with h5py.File(shard, "r+") as file:
        del file["fields"]
        file["padding"] = list(range(1000))
    with pytest.raises(DataError, match=f"cannot read {shard} .*, frames 5 to 5; run"):
        check_largest(store)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("operation", ["stat", "open_hdf5"])
def test_storage_that_is_away_is_not_called_a_missing_file(
    number: int, operation: str, store: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    place = completeness.os if operation == "stat" else open_files
    with monkeypatch.context() as patched:
        patched.setattr(place, operation, away)
        with pytest.raises(MachineError, match="the file may be intact, but its storage"):
            check_complete(store)


def test_a_folder_that_is_gone_is_one_sentence(store: DatasetStore) -> None:
    shutil.rmtree(store.folder)
    with pytest.raises(DataError, match=r"is not complete: .* and 5 more files"):
        check_complete(store)
