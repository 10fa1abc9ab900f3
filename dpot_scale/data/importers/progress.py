"""How far an import is: a bar on a terminal, a few lines elsewhere."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINES = 10  # where there is no terminal
SILENT_SECONDS = 5.0  # between lines, and before the first
MIB = 2**20


class ByteProgress:
    """Shows which file is read, how many bytes of all, and the time that is left.

    Args:
        total: Bytes.
        files: How many there are.
        say: Prints a line.
        on_terminal: Whether a bar can be drawn.
    """

    def __init__(
        self, total: int, files: int, *, say: Callable[[str], None], on_terminal: bool
    ) -> None:
        self.total = total
        self.files = files
        self.done = 0
        self._say = say
        self._seen: dict[Path, None] = {}
        self._started = self._said = time.monotonic()
        self._lines = 0
        self._bar = _bar() if on_terminal else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, path: Path, length: int) -> None:
        """Take that some more bytes of a file have been read."""
        self.done += length
        self._seen[path] = None
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=self._file(path))
        elif self._is_time_for_a_line():
            self._say(self._line(path))

    def _file(self, path: Path) -> str:
        number = list(self._seen).index(path) + 1
        return f"file {number} of {self.files}, {path.name}"

    def _is_time_for_a_line(self) -> bool:
        now, reached = time.monotonic(), self.done * LINES // max(self.total, 1)
        if reached <= self._lines or reached >= LINES or now - self._said < SILENT_SECONDS:
            return False
        self._lines, self._said = reached, now
        return True

    def _line(self, path: Path) -> str:
        seconds = time.monotonic() - self._started
        left = seconds * (self.total - self.done) / self.done
        return (
            f"{self._file(path)}: {self.done // MIB:,} of {self.total // MIB:,} MiB, "
            f"{left:,.0f} s left"
        )


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(),
        transient=True,
    )
