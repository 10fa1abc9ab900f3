"""Text for a terminal or a pipe: lines printed at once, aligned facts, tables, live ones, bars."""

import faulthandler
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, TextIO

from dpot_scale.errors import speaks_for_all, unread_output_ends_nothing

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress, TaskID

Unit = Literal["steps", "bytes"]
SILENT_SECONDS = 4.0  # after which it is said what is done
LOOK_SECONDS = 0.5
ROWS_AROUND = 3  # of a live table: its header, the line below it, the cursor's


class _Speech:
    """What this process has said: when, and in which blocks of `under_way` it is."""

    def __init__(self) -> None:
        self.newest = time.monotonic()
        self.blocks: list[threading.Event] = []

    def spoken(self) -> None:
        self.newest = time.monotonic()


_speech = _Speech()


def begin_command() -> None:
    """Count the silence of a command from its begin; a crash of C code says where it was."""
    _speech.spoken()
    if not faulthandler.is_enabled():
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # nowhere to say it
            faulthandler.enable()


def print_line(line: str) -> None:
    """Print a line at once, also into a pipe; that nobody reads it ends nothing."""
    _speech.spoken()
    with unread_output_ends_nothing():
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def print_error(sentence: str) -> None:
    """Print a problem on the standard error output, as one line."""
    with suppress(OSError):
        sys.stderr.write(f"error: {' '.join(sentence.split())}\n")  # HDF5 speaks in several lines


def align(facts: Sequence[tuple[str, str]]) -> str:
    """Return named facts as aligned lines."""
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return rows under a header, the first `left` columns aligned left and numbers right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )


def duration(seconds: float) -> str:
    """Return a time for people: 40 s, 3 min, 2.5 h, 4 d."""
    for unit, length in (("d", 86400.0), ("h", 3600.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    """Return a time for a column, all of which has one unit: 0:00:40, 2:30:00, 96:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


@contextmanager
def under_way(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """Say what a block does whenever this process has said nothing for some seconds.

    One rank does so for all, and of blocks in each other the inner one.

    Args:
        what: As "starting Ray".
        stream: Where to; None for the standard output.
    """
    if not speaks_for_all():
        yield
        return
    stream = stream or sys.stdout  # libraries may have theirs taken away in the block
    ended = threading.Event()

    def speak() -> None:
        begun = time.monotonic()
        while not ended.wait(LOOK_SECONDS):
            now = time.monotonic()
            if now - _speech.newest < SILENT_SECONDS or _speech.blocks[-1:] != [ended]:
                continue
            _speech.newest = now
            with suppress(OSError, ValueError):  # nobody reads any more
                stream.write(f"{what}, {now - begun:.0f} s so far\n")
                stream.flush()

    thread = threading.Thread(target=speak, name="under way", daemon=True)
    _speech.blocks.append(ended)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        _speech.blocks.remove(ended)
        thread.join()


class LiveTable:
    """A table that is drawn anew in its place on a terminal; in a pipe or a file there is none.

    Who shows it prints lines of its own where `is_drawn` is false.
    """

    def __init__(self) -> None:
        self._live = _make_live() if _can_redraw() else None

    @property
    def is_drawn(self) -> bool:
        """Return whether the output is a terminal."""
        return self._live is not None

    @property
    def room(self) -> int:
        """Return how many rows the terminal holds."""
        return max(1, shutil.get_terminal_size().lines - ROWS_AROUND)

    def show(self, header: Sequence[str], rows: Sequence[Sequence[str]], below: str) -> None:
        """Draw rows as `table` does, two columns at the left, and a line below them."""
        if self._live is None:
            return
        from rich.text import Text

        _speech.spoken()
        text = f"{table(header, rows, left=2)}\n{below}"
        with unread_output_ends_nothing():
            self._live.start()
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

    def say(self, line: str) -> None:
        """Print one line, above the table where there is one."""
        if self._live is None:
            print_line(line)
        else:
            _speech.spoken()
            with unread_output_ends_nothing():
                self._live.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing; the last table stays."""
        if self._live is not None:
            with unread_output_ends_nothing():
                self._live.stop()


class Bars:
    """Live bars, each with a name, on a terminal; in a pipe or a file there are none.

    Who shows progress prints lines of its own where `are_drawn` is false.

    Args:
        unit: What is counted. Bytes are shown in binary units and with their speed.
        stay: Whether the bars remain on the screen after `close`.
    """

    def __init__(self, unit: Unit = "steps", *, stay: bool = True) -> None:
        self._progress = _make_progress(unit, stay=stay) if _can_redraw() else None
        self._tasks: dict[str, TaskID] = {}

    @property
    def are_drawn(self) -> bool:
        """Return whether the output is a terminal."""
        return self._progress is not None

    def show(self, name: str, done: int, total: int, words: str = "") -> None:
        """Draw the bar of a name, or move it."""
        if self._progress is None:
            return
        _speech.spoken()
        with unread_output_ends_nothing():
            if name not in self._tasks:
                self._progress.start()
                self._tasks[name] = self._progress.add_task("", total=total, name=name)
            self._progress.update(self._tasks[name], completed=done, description=words)

    def remove(self, name: str) -> None:
        """Remove the bar of a name, if there is one."""
        if self._progress is not None and name in self._tasks:
            with unread_output_ends_nothing():
                self._progress.remove_task(self._tasks.pop(name))

    def say(self, line: str) -> None:
        """Print one line, above the bars where there are any."""
        if self._progress is None:
            print_line(line)
        else:
            _speech.spoken()
            with unread_output_ends_nothing():
                self._progress.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing and leave the terminal as it was found."""
        if self._progress is not None:
            with unread_output_ends_nothing():
                self._progress.stop()


def _can_redraw() -> bool:
    """Return whether the output is a terminal, and one that can go back to what it shows."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _make_live() -> "Live":
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(), auto_refresh=False)


def _make_progress(unit: Unit, *, stay: bool) -> "Progress":
    # Rich is imported only where bars are drawn: a table or a line needs none of it.
    from rich import progress
    from rich.console import Console

    steps, speed = progress.MofNCompleteColumn(), progress.TransferSpeedColumn()
    return progress.Progress(
        progress.TextColumn("{task.fields[name]}", markup=False),
        progress.DownloadColumn(binary_units=True) if unit == "bytes" else steps,
        progress.BarColumn(bar_width=24),
        progress.TextColumn("{task.description}", markup=False),
        *([speed] if unit == "bytes" else []),
        progress.TimeRemainingColumn(),
        console=Console(),
        transient=not stay,
    )
