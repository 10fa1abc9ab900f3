"""What benchmarks/soak.py finds left over: processes, files, memory that grows."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import psutil

SECONDS = 2.0  # between two looks at all processes
# A process that lives shorter has no early and late part to compare.
LEAST_SECONDS = 120.0
PARTS = 10  # of a life; the second is compared with the last
IDLE = "ray::IDLE"
# Ray's own: they wait for work, and may be importing still; one opens a file for each worker.
OF_RAY_ITSELF = (
    IDLE,
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
    "ray::_AutoscalingCoordinatorActor",  # of Ray Train, one in a cluster
)
NOT_WATCHED = (*OF_RAY_ITSELF, "/log_monitor.py")
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


class Held(NamedTuple):
    """What there is between two rounds."""

    mib: Mapping[str, float]  # that lie in memory, of each program with all below it
    processes: int
    files: int  # that these processes have open
    temporary: int  # entries of /tmp
    shared: int  # of /dev/shm


class Growth(NamedTuple):
    """A process over its life."""

    name: str
    minutes: float
    mib: tuple[float, ...]  # in each part of its life
    files: tuple[float, ...]

    @property
    def is_leak(self) -> bool:
        """Whether it grew beyond what is noise."""
        mib, mib_late, files, files_late = self.mib[1], self.mib[-1], self.files[1], self.files[-1]
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
    return " ".join(process.cmdline())[:120].strip() or process.name()


def works_on_ray(command: str) -> bool:
    """Return whether a worker of Ray, which lives on, still works for a driver."""
    return command.startswith("ray::") and not command.startswith(OF_RAY_ITSELF)


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
        if works_on_ray(command) or (pid not in before.processes and pid not in expected)
    ]
    found += [f"{name} is left in /tmp" for name in sorted(now.temporary - before.temporary)]
    return found + [f"{name} is left in /dev/shm" for name in sorted(now.shared - before.shared)]


def held(programs: Mapping[str, Collection[int]]) -> Held:
    """Return what there is now.

    Args:
        programs: By name, the processes that live on.
    """
    mib, files, now = dict.fromkeys(programs, 0.0), 0, look()
    for name, pids in programs.items():
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                mib[name] += process.memory_info().rss / MIB
                files += process.num_fds()
    return Held(mib, len(now.processes), files, len(now.temporary), len(now.shared))


def grown(looks: Mapping[str, Sequence[Look]]) -> list[Growth]:
    """Return how processes that lived long changed over their life.

    Args:
        looks: By the name of a process, in the order of time.
    """
    found = []
    for name, series in looks.items():
        lived = series[-1].seconds - series[0].seconds
        if lived < LEAST_SECONDS or len(series) < PARTS:
            continue
        bounds = [len(series) * part // PARTS for part in range(PARTS + 1)]
        parts = [series[begin:end] for begin, end in pairwise(bounds)]
        mib = tuple(fmean(one.mib for one in part) for part in parts)
        files = tuple(fmean(one.files for one in part) for part in parts)
        found.append(Growth(name, lived / 60, mib, files))
    return found


class Watcher:
    """Looks at processes that have come to what they are for, in a thread, until it is closed."""

    def __init__(self) -> None:
        self.looks: dict[str, list[Look]] = defaultdict(list)
        self._watched: dict[psutil.Process, str] = {}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def add_all(self) -> None:
        """Look also at all processes that are there now: they have started, and import no more."""
        found = dict(self._watched)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                name = named(process)
                if process not in found and not any(part in name for part in NOT_WATCHED):
                    found[process] = f"{process.pid} {name}"
        self._watched = {process: name for process, name in found.items() if process.is_running()}

    def close(self) -> None:
        """End the thread."""
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(SECONDS):
            for process, name in self._watched.items():  # never changed: replaced as a whole
                with contextlib.suppress(psutil.Error):
                    if process.is_running():
                        mib = process.memory_info().rss / MIB
                        self.looks[name].append(Look(time.monotonic(), mib, process.num_fds()))


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
