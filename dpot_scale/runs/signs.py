"""Signs of life of the ranks of an attempt: a small file of each, in the folder of the run.

Files, because every rank sees that folder: a store that one rank holds is gone with it. A file is
overwritten in place, which needs no room on a full disk. Clocks of two machines are never compared:
a reader counts the time in which a sign has not changed.
"""

import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from dpot_scale.processes import SCARCE, start_time, this_place

FOLDER = ".ranks"  # in that of the run
SIZE = 4096  # bytes of a file: of one length, so that it is never cut
LONGEST = 1500  # characters of a verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """What one rank says of itself."""

    attempt: int  # when it began: `next_attempt`
    rank: int
    place: str  # its machine and container: `files.this_place`
    pid: int
    started: str  # when the process was: numbers are used again
    beats: int = 0
    moves: int = 0  # changes of what it executes
    at: str = ""  # what it executes
    waits: bool = False  # in a collective call
    compiles: bool = False  # by torch.compile, in which steps take as long as nobody expects
    is_orphaned: bool = False  # its launcher was killed: it is about to save and end
    is_closed: bool = False  # it has come to its end
    verdict: str = ""  # why it gives the attempt up: a word, and behind ": " a sentence

    @property
    def who(self) -> str:
        """The rank, its machine and its process, for people."""
        return f"rank {self.rank} on {self.place.partition('/')[0]} (process {self.pid})"

    @property
    def is_here(self) -> bool:
        """Whether its process lives on this machine."""
        started = start_time(str(self.pid))
        return self.place == this_place() and started != "" and started == self.started

    @property
    def is_gone(self) -> bool:
        """Whether its process was on this machine and has ended."""
        return self.place == this_place() and not self.is_here


def write_sign(directory: Path, sign: Sign) -> None:
    """Write the sign of a rank.

    Args:
        directory: The folder of the run.
        sign: What to write.

    Raises:
        OSError: it cannot be written.
    """
    path = sign_file(directory, sign.rank)
    content = _encoded(sign)
    if len(content) >= SIZE:  # paths in letters of many bytes
        content = _encoded(replace(sign, at="", verdict=sign.verdict[: LONGEST // 6]))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)  # less what the umask takes
    try:
        os.pwrite(descriptor, content.ljust(SIZE - 1) + b"\n", 0)
    finally:
        os.close(descriptor)  # NFS sends it to the server now


def read_sign(directory: Path, rank: int) -> Sign | None:
    """Return the sign of a rank; None if there is none that can be read now."""
    try:
        return hear_sign(directory, rank)
    except OSError:
        return None


def hear_sign(directory: Path, rank: int) -> Sign | None:
    """Return the sign of a rank; None if there is none, or it is being written.

    Raises:
        OSError: this machine lacks memory or open files, so that it cannot be known.
    """
    try:
        sign = Sign(**json.loads(sign_file(directory, rank).read_bytes()))
    except (ValueError, TypeError, RecursionError):
        return None
    except OSError as error:
        if error.errno in SCARCE:
            raise
        return None
    is_one = all(type(getattr(sign, one.name)) is one.type for one in fields(sign))
    return sign if is_one else None


def newest_attempt(directory: Path) -> int:
    """Return the attempt of which a run has signs; 0 if it has none."""
    return max((sign.attempt for sign in _signs(directory)), default=0)


def next_attempt(directory: Path) -> int:
    """Return a number for an attempt that begins now, larger than those of which there are signs.

    The clock may have been set back, or be that of another machine.
    """
    return max(time.time_ns(), newest_attempt(directory) + 1)


def given_up(directory: Path, after: int) -> str | None:
    """Return why the ranks of the newest attempt gave it up, if they did.

    Args:
        directory: The folder of the run.
        after: The attempt before it, as `newest_attempt` returned it.

    Returns:
        A word and, behind ": ", a sentence.
    """
    found = [sign.verdict for sign in _signs(directory) if sign.verdict and sign.attempt > after]
    return found[0] if found else None


def speak(verdict: str) -> None:
    """Say to the user why an attempt was given up, if anybody reads it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"error: {verdict.partition(': ')[2]}\n")
        sys.stderr.flush()


def _signs(directory: Path) -> list[Sign]:
    """Return the signs of all ranks that ever were, by rank."""
    found = [path.name.removeprefix("rank_") for path in (directory / FOLDER).glob("rank_*")]
    ranks = sorted(int(rank) for rank in found if rank.isdecimal())
    return [sign for rank in ranks if (sign := read_sign(directory, rank)) is not None]


def _encoded(sign: Sign) -> bytes:
    """Return a sign as JSON; a path in it need not be UTF-8, and comes back as it was."""
    return json.dumps(asdict(sign), ensure_ascii=False).encode(errors="surrogatepass")


def sign_file(directory: Path, rank: int) -> Path:
    """Return the file of the sign of a rank."""
    return directory / FOLDER / f"rank_{rank}"
