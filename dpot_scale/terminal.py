"""Text for a terminal or a pipe: lines printed at once, aligned facts, tables, live bars."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Unit = Literal["steps", "bytes"]


def print_line(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_error(sentence: str) -> None:
    """Print a problem on the standard error output, as one line."""
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


class Bars:
    """Live bars, each with a name, on a terminal; in a pipe or a file there are none.

    Who shows progress prints lines of its own where `are_drawn` is false.

    Args:
        unit: What is counted. Bytes are shown in binary units and with their speed.
        stay: Whether the bars remain on the screen after `close`.
    """

    def __init__(self, unit: Unit = "steps", *, stay: bool = True) -> None:
        self._progress = _make_progress(unit, stay=stay) if sys.stdout.isatty() else None
        self._tasks: dict[str, TaskID] = {}

    @property
    def are_drawn(self) -> bool:
        """Return whether the output is a terminal."""
        return self._progress is not None

    def show(self, name: str, done: int, total: int, words: str = "") -> None:
        """Draw the bar of a name, or move it."""
        if self._progress is None:
            return
        if name not in self._tasks:
            self._progress.start()
            self._tasks[name] = self._progress.add_task("", total=total, name=name)
        self._progress.update(self._tasks[name], completed=done, description=words)

    def remove(self, name: str) -> None:
        """Remove the bar of a name, if there is one."""
        if self._progress is not None and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))

    def say(self, line: str) -> None:
        """Print one line, above the bars where there are any."""
        if self._progress is None:
            print_line(line)
        else:
            self._progress.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing and leave the terminal as it was found."""
        if self._progress is not None:
            self._progress.stop()


def _make_progress(unit: Unit, *, stay: bool) -> "Progress":
    # Rich is imported only where bars are drawn: a table or a line needs none of it.
    from rich import progress

    steps, speed = progress.MofNCompleteColumn(), progress.TransferSpeedColumn()
    return progress.Progress(
        progress.TextColumn("{task.fields[name]}", markup=False),
        progress.DownloadColumn(binary_units=True) if unit == "bytes" else steps,
        progress.BarColumn(bar_width=24),
        progress.TextColumn("{task.description}", markup=False),
        *([speed] if unit == "bytes" else []),
        progress.TimeRemainingColumn(),
        transient=not stay,
    )
