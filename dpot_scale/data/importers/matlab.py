"""MATLAB v5 files, the container of FNO's older downloads. MATLAB v7.3 files are HDF5."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.importers.source import unusable
from dpot_scale.errors import DataError

SIGNATURE = b"MATLAB 5.0 MAT-file"
MOST_PACKED = 1032  # values that zlib packs into a byte of a file, at most

REFUSED = 100  # what an exit code has beyond the number of an error of the system

T = TypeVar("T")

# SciPy's reader is compiled and crashes on some damaged files, so it runs in another process, which
# writes what it finds to its standard output: JSON, or an array as in a .npy file. What the system
# refuses is no fault of the file; its number is part of the exit code.
READER = """
import errno, json, sys, types, numpy, scipy.io
refused, path, *names = sys.argv[1:]
output = types.SimpleNamespace(write=sys.stdout.buffer.write)  # NumPy would seek in a file
try:
    if not names:
        output.write(json.dumps(scipy.io.whosmat(path)).encode())
    else:
        found = scipy.io.loadmat(path, variable_names=names)
        if names[0] not in found:
            raise EOFError(f"it breaks off before its array {names[0]}")
        array = found[names[0]]
        if not isinstance(array, numpy.ndarray) or array.dtype.hasobject:
            raise TypeError(f"its array {names[0]} holds no plain numbers")
        numpy.lib.format.write_array(output, array, allow_pickle=False)
except MemoryError:
    sys.exit(int(refused) + errno.ENOMEM)
except Exception as error:
    if isinstance(error, OSError) and error.errno is not None:
        sys.exit(int(refused) + error.errno)
    sys.exit(str(error) or type(error).__name__)
"""


def is_matlab_5(path: Path) -> bool:
    """Return whether a file begins as MATLAB v5 does."""
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def contents(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and MATLAB class of each array.

    Raises:
        DataError: the file is damaged.
        MachineError: it may be intact, but the system does not let it be read.
    """
    said = _read(path, lambda output: json.loads(output.read()))
    found = {name: (tuple(shape), kind) for name, shape, kind in said}
    most = MOST_PACKED * path.stat().st_size
    for name, (shape, _) in found.items():
        if min(shape, default=0) < 0 or prod(shape) > most:
            raise DataError(
                f"{path} is a damaged MATLAB file (its array {name} is said to be of {shape} "
                "values); download it again"
            )
    return found


def load(path: Path, name: str) -> NDArray[Any]:
    """Return an array, which MATLAB v5 only gives as a whole.

    Raises:
        DataError: the file is damaged.
        MachineError: it may be intact, but the system does not let it be read.
    """
    return _read(path, _received, name)


def _read(path: Path, receive: Callable[[IO[bytes]], T], *names: str) -> T:
    """Return what another process reads of a file."""
    words = [sys.executable, "-c", READER, str(REFUSED), str(path), *names]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said) as reader,
    ):
        assert reader.stdout is not None
        try:
            found = receive(reader.stdout)
        except (ValueError, EOFError) as error:
            failure: Exception | None = error
        else:
            failure = None
        reader.stdout.close()  # or it would wait for who takes the rest
        code = reader.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    refused = errno.ENOMEM if code == -signal.SIGKILL else code - REFUSED
    if refused > 0:
        raise unusable(path, OSError(refused, os.strerror(refused)))
    why = signal.Signals(-code).name + " in SciPy's reader" if code < 0 else " ".join(lines[-1:])
    if code != 0 or failure is not None:
        raise DataError(
            f"{path} is a truncated or damaged MATLAB file ({why}); download it again"
        ) from failure
    return found


def _received(output: IO[bytes]) -> NDArray[Any]:
    """Read an array from a pipe; `np.load` wants a file."""
    np.lib.format.read_magic(output)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(output)
    content = output.read(prod(shape) * dtype.itemsize)
    if len(content) < prod(shape) * dtype.itemsize:
        raise EOFError
    return np.ndarray(shape, dtype, content, order="F" if is_fortran else "C")
