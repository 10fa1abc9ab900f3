"""Where the ranks of an attempt stand: the stacks of their threads, looked at by another thread."""

import errno
import faulthandler
import logging
import os
import re
import threading
from pathlib import Path

from dpot_scale.runs.signs import FOLDER, Sign

log = logging.getLogger(__name__)

# Threads whose work the training thread waits for: the last one moves the bytes of an archive.
WORKERS = ("window reader", "save", "archive", "fsspecIO")
# Files in which the innermost frame stands while a rank waits for the others.
OF_COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/", "/deepspeed/utils/nvtx", "/watch.py")
# Files of which frames are there while torch.compile compiles, and not while what it made runs.
OF_COMPILATION = (
    "/torch/_dynamo/convert_frame.py",
    "/torch/_dynamo/symbolic_convert.py",
    "/torch/_inductor/compile_fx.py",
    "/torch/_inductor/graph.py",
)
MOST_THREADS = 100  # that faulthandler writes, the main one last
SHOWN = 3  # innermost frames
LONGEST = 300  # characters of their description
THREAD = re.compile(r"hread (0x[0-9a-f]+) .*\n((?:  .*\n)*)")  # one of what faulthandler writes
FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


class Place:
    """What a thread of this process and its workers execute.

    It reads what faulthandler writes, while all threads stand. To follow the frames of another
    thread that runs gave wrong objects under CPython 3.11, and could crash it.

    Args:
        thread: The identifier of the thread.
    """

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._file = os.fdopen(os.memfd_create("stacks"), "w+b", buffering=0)  # no disk is full
        self._has_warned = False
        self._signature: tuple[str, ...] = ()
        self.at = ""
        self.waits = False
        self.compiles = False

    def has_changed(self) -> bool:
        """Look again; return whether one of them executes something else than before.

        Raises:
            OSError: that cannot be known.
        """
        stacks = self._stacks()
        workers = [one.ident or 0 for one in threading.enumerate() if one.name in WORKERS]
        watched = (self._thread, *workers)
        if not all(ident in stacks for ident in watched):  # faulthandler says nothing of why
            self._warn_of(threading.active_count())
            raise OSError(errno.EIO, "the stack of a thread was not written")
        signature = tuple(stacks[ident] for ident in watched)
        if signature == self._signature:
            return False
        self._signature = signature
        frames = FRAME.findall(signature[0])
        self.waits = bool(frames) and any(part in frames[0][0] for part in OF_COLLECTIVES)
        self.compiles = any(file.endswith(OF_COMPILATION) for file, _, _ in frames)
        self.at = _described(frames)
        return True

    def _stacks(self) -> dict[int, str]:
        """Return the stack of each thread by its identifier, the innermost frame first."""
        self._file.seek(0)
        self._file.truncate()
        faulthandler.dump_traceback(self._file, all_threads=True)
        self._file.seek(0)
        text = self._file.read().decode("utf-8", errors="replace")
        return {int(ident, 16): stack for ident, stack in THREAD.findall(text)}

    def _warn_of(self, threads: int) -> None:
        if threads > MOST_THREADS and not self._has_warned:
            self._has_warned = True
            log.warning(
                "%d threads run here, and only %d can be looked at: where this rank is stuck, "
                "limits.hang does not find it",
                threads,
                MOST_THREADS,
            )


def dump_stacks(directory: Path, attempt: int, rank: int) -> None:
    """Write the stacks of all threads of this process to a file of their own.

    Raises:
        OSError: it cannot be written.
    """
    with _dump(directory, attempt, rank).open("w", encoding="utf-8") as file:
        faulthandler.dump_traceback(file, all_threads=True)


def has_dumped(directory: Path, attempt: int, rank: int) -> bool:
    """Return whether a rank has written its stacks."""
    return _dump(directory, attempt, rank).exists()


def forget_stacks(directory: Path) -> None:
    """Remove what ranks of earlier attempts have written.

    Raises:
        OSError: it cannot be removed.
    """
    for path in (directory / FOLDER).glob("stacks_*"):
        path.unlink(missing_ok=True)


def stacks_file(directory: Path, attempt: int) -> Path:
    """Return the file for the stacks of all ranks of an attempt."""
    return directory / f"stacks_{attempt // 10**9}.txt"


def join_stacks(directory: Path, signs: list[Sign], sentence: str) -> None:
    """Write the stacks of all ranks into one file; of a rank that wrote none, where it was seen.

    Raises:
        OSError: it cannot be written.
    """
    parts = [sentence]
    for sign in signs:
        path = _dump(directory, sign.attempt, sign.rank)
        stacks = path.read_text(encoding="utf-8") if path.exists() else ""
        seen = "waits for the others, in " if sign.waits else ""
        parts.append(f"{sign.who}\n{stacks or f'it wrote none; last seen: {seen}{sign.at}'}")
    text = "\n\n".join(parts) + "\n"
    file = stacks_file(directory, signs[0].attempt)
    file.write_text(text, encoding="utf-8", errors="surrogateescape")  # it names paths


def _dump(directory: Path, attempt: int, rank: int) -> Path:
    return directory / FOLDER / f"stacks_{attempt}_{rank}"


def _described(frames: list[tuple[str, str, str]]) -> str:
    """Return the innermost frames for people, that of this package nearest to them included."""
    words: list[str] = []
    for file, line, name in frames:
        path = Path(file)
        is_ours = "dpot_scale" in path.parts
        if is_ours or len(words) < SHOWN:
            words.append(f"{name} ({path.name}:{line})")
        if is_ours:
            break
    return ", called by ".join(words)[:LONGEST]
