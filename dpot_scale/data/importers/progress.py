"""Shows how far an import is: with a bar on a terminal, with a few lines elsewhere."""

import time
from contextlib import ExitStack
from pathlib import Path

from dpot_scale.terminal import Bars, under_way

BAR = "read"  # its name on the screen
LINES = 10  # where there is no terminal
SILENT_SECONDS = 5.0  # between lines, and before the first
MIB = 2**20


class ByteProgress:
    """Shows which file is read, how many bytes of all, and the time that is left.

    Args:
        total: Bytes of all files together.
        files: The number of files.
    """

    def __init__(self, total: int, files: int) -> None:
        self.total = total
        self.files = files
        self.done = 0
        self._seen: dict[Path, None] = {}
        self._started = self._said = time.monotonic()
        self._lines = 0
        self._bars = Bars("bytes", stay=False)
        self._open = ExitStack()
        if not self._bars.are_drawn:
            self._open.enter_context(under_way("reading"))

    def __call__(self, path: Path, length: int) -> None:
        """Count some more bytes of a file as read."""
        self.done += length
        self._seen[path] = None
        if self._bars.are_drawn:
            self._bars.show(BAR, self.done, self.total, self._file(path))
        elif self._is_time_for_a_line():
            self._bars.say(self._line(path))

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._open.close()
        self._bars.close()

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
