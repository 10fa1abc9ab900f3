"""A fault of the machine, or of its network, is told from one of a file."""

import errno
import os

import pytest

from dpot_scale.data.store import open_files
from dpot_scale.data.store.faults import may_pass
from dpot_scale.errors import DataError, MachineError, UserError
from tests.conftest import no_more_open_files

SAID_BY_HDF5 = "Can't synchronously read data (file read failed: errno = {}, error message = 'x')"


def failure_of(store, monkeypatch: pytest.MonkeyPatch, error: Exception) -> UserError:
    """Return what a store says where opening its file raises an error."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(open_files, "open_hdf5", refuse)
    with pytest.raises((DataError, MachineError)) as raised:
        store.read("train", 0, 0, 1)
    return raised.value


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, None])
def test_a_machine_that_lacks_something_is_named(make_store, monkeypatch, number) -> None:
    error = MemoryError() if number is None else OSError(number, os.strerror(number))
    failure = failure_of(make_store("a"), monkeypatch, error)
    assert isinstance(failure, MachineError)
    assert may_pass(failure)
    assert "this machine lacks memory or open files: allow more (`ulimit -n`" in str(failure)
    assert "prepare verify" not in str(failure)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN])
@pytest.mark.parametrize("is_open", [False, True])
def test_storage_that_is_away_may_come_back(make_store, monkeypatch, number, is_open) -> None:
    error = OSError(SAID_BY_HDF5.format(number)) if is_open else OSError(number, "away")
    failure = failure_of(make_store("a"), monkeypatch, error)
    assert not isinstance(failure, MachineError)
    assert may_pass(failure)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "gone"), OSError("truncated file"), ValueError("errno = 5")]
)
def test_a_file_at_fault_does_not_mend_itself(make_store, monkeypatch, error) -> None:
    failure = failure_of(make_store("a"), monkeypatch, error)
    assert not may_pass(failure)
    assert "prepare verify" in str(failure)


def test_too_many_open_files_are_no_fault_of_a_dataset(make_store) -> None:
    """The system itself refuses to open one more."""
    store = make_store("a")
    store.close()
    with no_more_open_files(), pytest.raises(MachineError, match="Too many open files"):
        store.read("train", 0, 0, 1)
    assert store.read("train", 0, 0, 1).shape[0] == 1
