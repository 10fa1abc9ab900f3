"""Which process it is: its machine and when it was started tell it from all others."""

import errno
import socket
from pathlib import Path

SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # they say nothing of what was to be opened


def start_time(pid: str) -> str:
    """Return when a process of this machine was started, "" if it ended: numbers are reused.

    Raises:
        OSError: this machine lacks memory or open files, so that it cannot be known.
    """
    try:
        status = _read(f"/proc/{pid}/stat")
        return status.rpartition(")")[2].split()[19]
    except (ValueError, IndexError):  # `pid` may be of a damaged file, and no number
        return ""


def this_place() -> str:
    """Return a name for this machine and container, within which process numbers are unique.

    Machines of one name differ in what the kernel draws when it starts. Versions before left it
    out: what they wrote is of no known place.

    Raises:
        OSError: this machine lacks memory or open files, so that it cannot be known.
    """
    boot = _read("/proc/sys/kernel/random/boot_id").strip()  # none in a sandbox
    return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink()}/{boot}"


def _read(path: str) -> str:
    """Return the content of a file; nothing if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        if error.errno in SCARCE:
            raise
        return ""
