"""How far the running trials are, read from their spools: a bar each on a terminal, else lines."""

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from dpot_scale.scaling.plan import Trial
from dpot_scale.tracking.spool import SPOOL, newest_record

LINE_SECONDS = 15.0  # between two lines about one trial where there is no terminal


class Progress:
    """Shows the trials that train. A context, which leaves the terminal as it was found."""

    def __init__(self, trials: Sequence[Trial], say: Callable[[str], None]) -> None:
        self._trials = {trial.id: trial for trial in trials}
        self._say = say
        self._shown: dict[str, int] = {}  # trial -> step of its last line
        self._last_line: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars: RichProgress | None = None
        if sys.stdout.isatty():
            self._bars = RichProgress(
                TextColumn("{task.fields[trial]}"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=RichConsole(),
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self) -> None:
        """Show what the trials have recorded since the last call."""
        for trial in self._trials.values():
            record = newest_record(trial.run.directory / SPOOL, containing="train/loss")
            if record is None or int(record["step"]) == self._shown.get(trial.id):
                continue
            step = int(record["step"])
            self._show(
                trial,
                step,
                f"loss {record['train/loss']:.4f}  "
                f"{record['perf/windows_per_second']:.1f} windows/s",
            )

    def finish(self, trial: Trial, how: str) -> None:
        """Say how a trial ended, and show it no longer."""
        self._trials.pop(trial.id)
        if self._bars is not None and trial.id in self._tasks:
            self._bars.remove_task(self._tasks.pop(trial.id))
        self._line(f"{trial.id}: {how}")

    def _show(self, trial: Trial, step: int, words: str) -> None:
        if self._bars is not None:
            if trial.id not in self._tasks:
                self._tasks[trial.id] = self._bars.add_task(
                    "", total=trial.run.steps, trial=trial.id
                )
            self._bars.update(self._tasks[trial.id], completed=step, description=words)
        elif time.monotonic() - self._last_line.get(trial.id, -LINE_SECONDS) >= LINE_SECONDS:
            self._last_line[trial.id] = time.monotonic()
            self._line(f"{trial.id}: step {step}/{trial.run.steps}  {words}")
        else:
            return  # too soon for another line: shown at a later call
        self._shown[trial.id] = step

    def _line(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            self._say(line)
