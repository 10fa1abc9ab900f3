"""Where the ranks of an attempt stand: the stacks of their threads, looked at by another thread."""

import gc
import sys
import threading
from collections.abc import Iterator
from itertools import accumulate, chain, compress, repeat, takewhile
from operator import attrgetter, call, truth
from pathlib import Path
from types import CodeType
from typing import TypeVar

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

T = TypeVar("T")

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
    for ident in _undisturbed(chain.from_iterable(map(call, [sys._current_frames]))):
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
        stacks = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
        seen = "waits for the others, in " if sign.waits else ""
        parts.append(f"{sign.who}\n{stacks or f'it wrote none; last seen: {seen}{sign.at}'}")
    text = "\n\n".join(parts) + "\n"
    file = stacks_file(directory, signs[0].attempt)
    file.write_text(text, encoding="utf-8", errors="surrogateescape")  # it names paths


def _dump(directory: Path, attempt: int, rank: int) -> Path:
    return directory / FOLDER / f"stacks_{attempt}_{rank}"


def _stack(thread: int) -> Stack:
    """Return where a thread stands; nothing where it executes no Python."""
    innermost = map(dict.get, map(call, [sys._current_frames]), [thread])
    frames = accumulate(chain(innermost, repeat("f_back")), getattr)  # type: ignore[arg-type]
    return _undisturbed(map(attrgetter("f_code", "f_lasti", "f_lineno"), takewhile(truth, frames)))


def _undisturbed(items: Iterator[T]) -> tuple[T, ...]:
    """Return what an iterator over C functions gives while no other thread of Python runs.

    Frames that run on while they are followed are wrong objects or crash CPython 3.11. So does
    faulthandler, where a thread of C enters Python in that moment, as those of gloo do in each
    collective call. Python lets no other thread run between C functions, so all is done in them.
    Only the collector of garbage may run Python there, and by it deadlock `sys._current_frames` of
    3.11, so it is off for so long.
    """
    collects: list[bool] = []
    before = chain(map(collects.append, map(call, [gc.isenabled])), map(call, [gc.disable]))
    after = map(call, compress([gc.enable], collects))  # which is read when it comes to that
    return tuple(chain(filter(None, before), items, filter(None, after)))


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
