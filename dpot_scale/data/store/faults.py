"""What reading a dataset fails with, and whether that says anything of its files."""

import errno
import re
from pathlib import Path
from tokenize import TokenError

from dpot_scale.errors import DataError, MachineError

# What h5py and NumPy raise where a file is missing, damaged or not what it should be.
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, LookupError, AttributeError, TypeError),
    *(ArithmeticError, SyntaxError, TokenError),  # of the header of a .npy file
)
SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # which say nothing of a file
# What is raised while another server of a network file system takes over, and by a broken disk.
AWAY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
NUMBER = re.compile(r"errno = (\d+)")  # how HDF5 says it of a file that is open


def unreadable(path: Path, error: Exception, what: str, advice: str) -> DataError:
    """Return in a sentence that something could not be read.

    Args:
        path: The file.
        error: What was raised.
        what: What was read of it, beginning with a space; may be empty.
        advice: What to do where the file is at fault.
    """
    reason = " ".join(str(error).split())  # HDF5 speaks in several lines
    if isinstance(error, MemoryError) or _number(error) in SCARCE:
        return MachineError(
            f"cannot read {path} ({reason or 'out of memory'}){what}; the file may be intact, but "
            "this machine lacks memory or open files: allow more (`ulimit -n` for files), and "
            "start again"
        )
    return DataError(f"cannot read {path} ({reason}){what}; {advice}")


def may_pass(error: DataError) -> bool:
    """Return whether what could not be read may be read a little later."""
    return isinstance(error, MachineError) or _number(error.__cause__) in AWAY


def _number(error: BaseException | None) -> int | None:
    """Return the number of a system error, if it is one."""
    number = getattr(error, "errno", None)
    said = NUMBER.search(str(error)) if isinstance(error, OSError) and number is None else None
    return int(said[1]) if said else number
