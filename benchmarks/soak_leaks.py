"""What benchmarks/soak.py finds left over: processes, files, memory that grows."""

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import psutil

SECONDS = 2.0  # between two looks at all processes
# A process that lives shorter has no early and late part to compare.
LEAST_SECONDS = 120.0
MOST_GROWTH, MOST_MIB, MOST_FILES = 1.25, 50.0, 20
MIB = 2.0**20


class Look(NamedTuple):
    """What a process had at a moment."""

    seconds: float
    mib: float  # that lie in memory
    files: int  # that are open


class Left(NamedTuple):
    """What there is besides the run itself."""

    processes: Mapping[int, str]  # by id, their command
    temporary: frozenset[str]
    shared: frozenset[str]


class Growth(NamedTuple):
    """A process over its life."""

    name: str
    minutes: float
    mib: tuple[float, float]  # at first and at last
    files: tuple[float, float]

    @property
    def is_leak(self) -> bool:
        """Whether it grew beyond what is noise."""
        (mib, mib_late), (files, files_late) = self.mib, self.files
        more_memory = mib_late > MOST_GROWTH * mib and mib_late - mib > MOST_MIB
        return more_memory or files_late - files > MOST_FILES


def look() -> Left:
    """Return what there is now. Every process that is seen here was started by the soak."""
    processes = {}
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                processes[process.pid] = named(process)
        except psutil.Error:
            continue
    return Left(processes, _entries("/tmp"), _entries("/dev/shm"))


def named(process: psutil.Process) -> str:
    """Return the beginning of a command."""
    return " ".join(process.cmdline())[:120] or process.name()


def leaks(before: Left, now: Left, *, expected: Collection[int]) -> list[str]:
    """Return in words what was not there before.

    Args:
        before: What there was.
        now: What there is.
        expected: The processes that may have been started since.
    """
    found = [
        f"process {pid} is left: {command}"
        for pid, command in now.processes.items()
        if pid not in before.processes and pid not in expected
    ]
    found += [f"{name} is left in /tmp" for name in sorted(now.temporary - before.temporary)]
    return found + [f"{name} is left in /dev/shm" for name in sorted(now.shared - before.shared)]


def grown(looks: Mapping[str, Sequence[Look]]) -> list[Growth]:
    """Return how processes that lived long changed from the second tenth of their life to the last.

    Args:
        looks: By the name of a process, in the order of time.
    """
    found = []
    for name, series in looks.items():
        lived = series[-1].seconds - series[0].seconds
        if lived < LEAST_SECONDS:
            continue
        tenth = max(1, len(series) // 10)
        early, late = series[tenth : 2 * tenth], series[-tenth:]
        found.append(
            Growth(
                name,
                lived / 60,
                (fmean(one.mib for one in early), fmean(one.mib for one in late)),
                (fmean(one.files for one in early), fmean(one.files for one in late)),
            )
        )
    return found


class Watcher:
    """Looks at processes that are to live on, in a thread, until it is closed."""

    def __init__(self) -> None:
        self.looks: dict[str, list[Look]] = defaultdict(list)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(SECONDS):
            for process in psutil.process_iter():
                try:
                    seen = Look(
                        time.monotonic(), process.memory_info().rss / MIB, process.num_fds()
                    )
                    self.looks[f"{process.pid} {named(process)}"].append(seen)
                except psutil.Error:
                    continue


def family(roots: Iterable[int]) -> set[int]:
    """Return processes with all below them."""
    found = set(roots)
    for root in tuple(found):
        try:
            found |= {child.pid for child in psutil.Process(root).children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return found


def _entries(folder: str) -> frozenset[str]:
    return frozenset(path.name for path in Path(folder).iterdir())
