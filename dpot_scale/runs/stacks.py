"""Where the ranks of an attempt stand: the stacks of their threads, looked at by another thread."""

import gc
import sys
import threading
from collections import deque
from contextlib import suppress
from itertools import accumulate, chain, repeat
from operator import attrgetter, call
from pathlib import Path
from types import CodeType

from dpot_scale.runs.signs import FOLDER, Sign

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
SHOWN = 3  # innermost frames
LONGEST = 300  # characters of their description

# The frames of a thread, the innermost first: of each its code, instruction and line.
Stack = tuple[tuple[CodeType, int, int | None], ...]


class Place:
    """What a thread of this process and its workers execute.

    Args:
        thread: The identifier of the thread.
    """

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._stacks: list[Stack] = []
        self.at = ""
        self.waits = False
        self.compiles = False

    def has_changed(self) -> bool:
        """Look again; return whether one of them executes something else than before."""
        workers = [one.ident or 0 for one in threading.enumerate() if one.name in WORKERS]
        stacks = [_stack(ident) for ident in (self._thread, *workers)]
        if stacks == self._stacks:
            return False
        self._stacks = stacks
        files = [code.co_filename for code, _, _ in stacks[0]]
        self.waits = bool(files) and any(part in files[0] for part in OF_COLLECTIVES)
        self.compiles = any(file.endswith(OF_COMPILATION) for file in files)
        self.at = _described(stacks[0])
        return True


def dump_stacks(directory: Path, attempt: int, rank: int) -> None:
    """Write the stacks of all threads of this process to a file of their own.

    Raises:
        OSError: it cannot be written.
    """
    names = {one.ident: one.name for one in threading.enumerate()}
    lines: list[str] = []
    for ident in list(sys._current_frames()):
        lines.append(f"Thread {names.get(ident, ident)} (most recent call first):")
        for code, _, line in _stack(ident):
            lines.append(f'  File "{code.co_filename}", line {line} in {code.co_name}')
    text = "\n".join([*lines, ""])
    _dump(directory, attempt, rank).write_text(text, encoding="utf-8", errors="surrogateescape")


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


def _stack(thread: int) -> Stack:
    """Return where a thread stands; nothing where it executes no Python.

    All that looks at frames runs in C functions, between which Python lets no other thread run.
    Frames that run on while they are followed are wrong objects or crash CPython 3.11. So does
    faulthandler, where a thread of C enters Python in that moment, as those of gloo do in each
    collective call. The collector of garbage, which may run Python, waits for so long.
    """
    innermost = map(dict.get, map(call, [sys._current_frames]), [thread])
    frames = accumulate(chain(innermost, repeat("f_back")), getattr)  # type: ignore[arg-type]
    positions = map(attrgetter("f_code", "f_lasti", "f_lineno"), frames)
    found: deque[tuple[CodeType, int, int | None]] = deque()
    collects = gc.isenabled()
    gc.disable()
    try:
        with suppress(AttributeError):  # there is nothing behind the outermost frame
            found.extend(positions)
    finally:
        if collects:
            gc.enable()
    return tuple(found)


def _described(stack: Stack) -> str:
    """Return the innermost frames for people, that of this package nearest to them included."""
    words: list[str] = []
    for code, _, line in stack:
        path = Path(code.co_filename)
        is_ours = "dpot_scale" in path.parts
        if is_ours or len(words) < SHOWN:
            words.append(f"{code.co_name} ({path.name}:{line})")
        if is_ours:
            break
    return ", called by ".join(words)[:LONGEST]
