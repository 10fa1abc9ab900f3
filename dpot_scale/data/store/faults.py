"""What reading or writing a dataset fails with, and whether that says anything of its files."""

import errno
import os
import re
import shutil
from pathlib import Path
from tokenize import TokenError

from dpot_scale.errors import DataError, DiskError, MachineError, memory_was_refused
from dpot_scale.files import cannot_write
from dpot_scale.processes import SCARCE

# What h5py and NumPy raise where a file is missing, damaged or not what it should be, and where the
# machine cannot read it.
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, LookupError, AttributeError, TypeError),
    *(ArithmeticError, SyntaxError, TokenError),  # of the header of a .npy file
    MemoryError,
)
ALLOW_MORE = "allow more (`ulimit -n` for files), and start again"
# What is raised while another server of a network file system takes over, and by a broken disk.
AWAY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
NUMBER = re.compile(r"errno = (\d+), error message")  # how HDF5 says it of a file that is open


def unreadable(path: Path, error: Exception, what: str, advice: str) -> "DataError | MachineError":
    """Return in a sentence that something could not be read.

    Args:
        path: The file.
        error: What was raised.
        what: What was read of it, beginning with a space; may be empty.
        advice: What to do where the file is at fault.
    """
    return scarcity(path, error, what) or DataError(
        f"cannot read {path} ({_words(error)}){what}; {advice}"
    )


def scarcity(place: Path | str, error: BaseException, what: str = "") -> MachineError | None:
    """Return what a machine lacked to read something, in a sentence; None if it lacked nothing.

    Args:
        place: The file, or a part of it.
        error: What was raised.
        what: What was read of it, beginning with a space; may be empty.
    """
    if not _is_scarcity(error):
        return None
    return MachineError(
        f"cannot read {place} ({_words(error) or 'out of memory'}){what}; the file may be intact, "
        f"but this machine lacks memory or open files: {ALLOW_MORE}"
    )


def cannot_store(
    folder: Path, error: OSError | RuntimeError, needed: int | None = None
) -> DiskError | MachineError:
    """Return in a sentence that a dataset could not be written, by the disk or the machine.

    Args:
        folder: Of the dataset: the hidden one, in which it was written, may be removed.
        error: What was raised.
        needed: How many bytes were to be written, if known.
    """
    if _is_scarcity(error):
        return MachineError(
            f"cannot write {folder} ({_words(error)}): this machine lacks memory or open files: "
            f"{ALLOW_MORE}"
        )
    return cannot_write(folder, error, needed=needed)


def require_room(folder: Path, needed: int) -> None:
    """Fail before HDF5 does: a process that could not close a file crashes when it exits.

    Raises:
        OSError: the disk of a folder has fewer bytes than needed.
    """
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def require_machine(place: Path | str, error: BaseException) -> None:
    """Make sure that a file is at fault for an error, and not the machine or its storage.

    Raises:
        MachineError: the file may be intact.
    """
    lacking = scarcity(place, error)
    if lacking is not None:
        raise lacking from error
    number = _number(error)
    if number in AWAY:
        raise MachineError(
            f"cannot read {place} ({os.strerror(number)}); the file may be intact, but its storage "
            "does not answer or is broken: start again once it answers, or with a copy elsewhere"
        ) from error


def may_pass(error: DataError | MachineError) -> bool:
    """Return whether what could not be read may be read a little later."""
    return isinstance(error, MachineError) or _number(error.__cause__) in AWAY


def _is_scarcity(error: BaseException) -> bool:
    return memory_was_refused(error) or _number(error) in SCARCE


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())  # HDF5 speaks in several lines


def _number(error: BaseException | None) -> int | None:
    """Return the number of a system error, if it is one."""
    number: int | None = getattr(error, "errno", None)
    said = NUMBER.search(str(error)) if number is None else None
    return int(said[1]) if said else number
