"""Where the ranks of an attempt stand: the stacks of their threads, looked at by another thread."""

import faulthandler
import sys
import threading
from pathlib import Path
from types import FrameType

from dpot_scale.runs.signs import FOLDER, Sign

# Threads whose work the training thread waits for: the last one moves the bytes of an archive.
WORKERS = ("window reader", "save", "archive", "fsspecIO")
# Files in which the innermost frame stands while a rank waits for the others.
OF_COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/", "/deepspeed/utils/nvtx", "/watch.py")
SHOWN = 3  # innermost frames
LONGEST = 300  # characters of their description


class Place:
    """What a thread of this process and its workers execute.

    Args:
        thread: The identifier of the thread.
    """

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._signature: tuple[object, ...] = ()
        self.at = ""
        self.waits = False

    def has_changed(self) -> bool:
        """Look again; return whether one of them executes something else than before."""
        frames = sys._current_frames()
        main = frames.get(self._thread)
        workers = [one.ident for one in threading.enumerate() if one.name in WORKERS]
        signature: list[object] = list(_positions(main))
        for ident in workers:
            signature += [None, *_positions(frames.get(ident or 0))]
        if tuple(signature) == self._signature:
            return False
        self._signature = tuple(signature)
        self.waits = main is not None and any(
            part in main.f_code.co_filename for part in OF_COLLECTIVES
        )
        self.at = _described(main)
        return True


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
    stacks_file(directory, signs[0].attempt).write_text(text, encoding="utf-8")


def _dump(directory: Path, attempt: int, rank: int) -> Path:
    return directory / FOLDER / f"stacks_{attempt}_{rank}"


def _positions(frame: FrameType | None) -> list[object]:
    """Return what a thread executes: code and instruction of each frame, the innermost first."""
    found: list[object] = []
    while frame is not None:
        found += [frame.f_code, frame.f_lasti]
        frame = frame.f_back
    return found


def _described(frame: FrameType | None) -> str:
    """Return the innermost frames for people, that of this package nearest to them included."""
    words: list[str] = []
    while frame is not None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        is_ours = "dpot_scale" in path.parts
        if is_ours or len(words) < SHOWN:
            words.append(f"{name} ({path.name}:{frame.f_lineno})")
        if is_ours:
            break
        frame = frame.f_back
    return ", called by ".join(words)[:LONGEST]
