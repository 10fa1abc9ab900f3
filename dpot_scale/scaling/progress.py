"""How far the running trials are, read from their spools: a bar each on a terminal, else lines."""

import time
from collections.abc import Callable, Sequence

from dpot_scale.scaling.plan import Trial
from dpot_scale.terminal import Bars
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL, newest_record

LINE_SECONDS = 15.0  # between two lines about one trial where there is no terminal


class TrialProgress:
    """Shows the trials that train.

    Args:
        trials: Those that are about to run.
        say: Prints one line where there is no terminal.
    """

    def __init__(self, trials: Sequence[Trial], say: Callable[[str], None]) -> None:
        self._trials = {trial.id: trial for trial in trials}
        self._shown: dict[str, int] = {}  # trial -> step of its last line
        self._last_line: dict[str, float] = {}
        self._bars = Bars()
        self._say = self._bars.say if self._bars.are_drawn else say

    def update(self) -> None:
        """Show what the trials have recorded since the last call."""
        for trial in self._trials.values():
            record = newest_record(trial.run.directory / SPOOL, containing=names.LOSS)
            if record is None or int(record["step"]) == self._shown.get(trial.id):
                continue
            step = int(record["step"])
            self._show(
                trial,
                step,
                f"loss {record[names.LOSS]:.4f}  {record[names.WINDOWS_PER_SECOND]:.1f} windows/s",
            )

    def finish(self, trial: Trial, how: str) -> None:
        """Say how a trial ended, and show it no longer."""
        self._trials.pop(trial.id)
        self._bars.remove(trial.id)
        self._say(f"{trial.id}: {how}")

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._bars.close()

    def _show(self, trial: Trial, step: int, words: str) -> None:
        if self._bars.are_drawn:
            self._bars.show(trial.id, step, trial.run.steps, words)
        elif time.monotonic() - self._last_line.get(trial.id, -LINE_SECONDS) >= LINE_SECONDS:
            self._last_line[trial.id] = time.monotonic()
            self._say(f"{trial.id}: step {step}/{trial.run.steps}  {words}")
        else:
            return  # too soon for another line: shown at a later call
        self._shown[trial.id] = step
