"""HDF5 files that stay open between reads, and what must be forgotten where one fails."""

import fcntl
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self
from weakref import WeakSet

import h5py

from dpot_scale.data.store.numpy_files import NumpyFile
from dpot_scale.errors import DataError
from dpot_scale.files import check_regular

NPY = ".npy"  # as every view of NumPy's files ends, if it is not of a folder
# What HDF5 says where a file cannot be locked, and where this process has it open in another way.
NOT_SO = ("unable to lock file", "flag values don't match")
OPEN_FILES = 256  # of a dataset; it may link to thousands

LOCK = threading.RLock()  # of a thread that reads
# h5py does the same with its own lock: a forked process has no thread that could release it.
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


def open_hdf5(path: Path | str, mode: str = "r") -> h5py.File:
    """Return an HDF5 file, opened without HDF5's lock.

    What is read does not change, and who writes holds the lock of the folder of datasets. HDF5's
    own lock fails on some parallel file systems, and where another program reads the same file.

    Raises:
        DataError: it is locked nevertheless, or it is being written.
        OSError: it cannot be opened for another reason.
    """
    if mode == "r":
        check_regular(Path(path))
    try:
        return _open_hdf5(path, mode)
    except OSError as error:
        if "unable to lock file" in str(error):
            raise DataError(
                f"cannot lock {path} ({os.strerror(error.errno or 0)}): another program has it "
                "open, or its file system has no locks; set HDF5_USE_FILE_LOCKING=FALSE"
            ) from error
        if "file is already open for" in str(error):
            raise DataError(
                f"{path} is being written, or the program that wrote it was killed; wait until it "
                f"is complete, or run `h5clear --status {path}`"
            ) from error
        raise


def _open_hdf5(path: Path | str, mode: str) -> h5py.File:
    """Return a file without a lock where it is read, and where it cannot be locked.

    HDF5 takes a lock and gives it back at once: it lets no other library of this process open a
    file that was opened without one.
    """
    for locking in (None, False, True):
        try:
            file = h5py.File(path, mode, locking=locking)
        except OSError as error:
            if not any(words in str(error) for words in NOT_SO):
                raise
            refused = error
        else:
            if mode == "r":
                with suppress(OSError):  # no locks there
                    fcntl.flock(file.id.get_vfd_handle(), fcntl.LOCK_UN)
            return file
    raise refused


class OpenFiles:
    """HDF5 files that stay open between reads, until something cannot be read.

    Threads share them. One thread of a process reads at a time, as h5py has it anyway: so none
    closes what another one reads. A forked process opens its own: HDF5 handles do not survive a
    fork.
    """

    _all: ClassVar[WeakSet["OpenFiles"]] = WeakSet()

    def __init__(self) -> None:
        self._files: dict[tuple[int, str], _OpenFile] = {}
        with LOCK:
            self._all.add(self)

    @classmethod
    def close_all(cls) -> None:
        """Close the files of the whole process, so that HDF5 forgets what it holds of them.

        HDF5 (2.0.0, of h5py 3.16) reads a contiguous array through a buffer of 64 KiB, its sieve
        buffer. It notes which place of the file the buffer holds before it reads that place. Where
        that fails, the next read of the place returns what the buffer held before, without an
        error. All handles of a file share the buffer, whichever thread or dataset opened them; it
        goes with the last one.
        """
        with LOCK:
            for files in cls._all:
                files.close()

    def array(self, file: str, name: str) -> h5py.Dataset | NumpyFile:
        """Return an array of an HDF5 file, of a .npy or of a folder of .npy, not yet read.

        Raises:
            OSError, LookupError, ValueError: there is none.
        """
        if _is_numpy(file):
            return NumpyFile.of(Path(file + name))
        opened = self._open(file)
        if name not in opened.arrays:
            array = opened.content[name]
            if not isinstance(array, h5py.Dataset):
                raise KeyError(f"{name} is no array")
            opened.arrays[name] = array
        return opened.arrays[name]

    def file(self, path: str) -> h5py.File:
        """Return an HDF5 file, opened for reading."""
        return self._open(path).content

    def check_uncut(self, file: str) -> None:
        """Refuse data read from a file that was cut while open: HDF5 fills the gap with zeros.

        Raises:
            OSError: it is shorter than when it was opened.
        """
        if _is_numpy(file):
            return  # opened anew for each read, which fails if it is too short
        opened = self._open(file)
        size = os.fstat(opened.descriptor).st_size
        if size < opened.size:
            raise OSError(f"cut from {opened.size:,} to {size:,} bytes while it was open")

    def close(self) -> None:
        """Close these files."""
        with LOCK:
            while self._files:
                _, opened = self._files.popitem()
                with suppress(OSError, RuntimeError):  # the others are to be closed, too
                    opened.content.close()

    def _open(self, path: str) -> "_OpenFile":
        key = (os.getpid(), path)
        if key not in self._files:
            if len(self._files) >= OPEN_FILES:
                self.close()
            self._files[key] = _OpenFile.of(path)
        return self._files[key]


class Reading:
    """While it lasts no other thread reads or closes; where it fails, all files are closed.

    Written out, as each window is read in it: a generator costs several microseconds.
    """

    def __enter__(self) -> None:
        LOCK.acquire()

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            if failure is not None:
                OpenFiles.close_all()
        finally:
            LOCK.release()


@dataclass(frozen=True, slots=True)
class _OpenFile:
    content: h5py.File
    descriptor: int  # of the operating system
    size: int  # in bytes, when it was opened; HDF5 refuses a file that is too short then
    # As often read: finding one in the file costs as much as reading a small window.
    arrays: dict[str, h5py.Dataset] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str) -> Self:
        content = open_hdf5(path)
        descriptor = content.id.get_vfd_handle()
        return cls(content, descriptor, os.fstat(descriptor).st_size)


def _is_numpy(file: str) -> bool:
    """Return whether a view is of NumPy's files, which are known by their names, and not HDF5."""
    return file.endswith(os.sep) or (file.endswith(NPY) and not h5py.is_hdf5(file))
