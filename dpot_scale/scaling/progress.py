"""How far the running trials are, read from their spools: a bar each on a terminal, else lines."""

import time
from collections.abc import Callable, Iterable, Sequence

from dpot_scale.scaling.plan import Trial
from dpot_scale.terminal import Bars
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL, newest_record

LINE_SECONDS = 5.0  # between two lines about one trial where there is no terminal


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
        self._begun: dict[str, float] = {}
        self._bars = Bars()
        self._say = self._bars.say if self._bars.are_drawn else say

    def update(self, running: Iterable[Trial] = ()) -> None:
        """Show what the trials have recorded since the last call.

        Args:
            running: Those whose workers were started: what these do is said while nothing is new.
        """
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

        for trial in running:
            self._show_waiting(trial)

    def finish(self, trial: Trial, how: str) -> None:
        """Say how a trial ended, and show it no longer."""
        self._trials.pop(trial.id)
        self._bars.remove(trial.id)
        self._say(f"{trial.id}: {how}")

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._bars.close()

    def _show_waiting(self, trial: Trial) -> None:
        """Say what a trial does that has recorded nothing for a while."""
        now, shown = time.monotonic(), self._shown.get(trial.id)
        begun = self._begun.setdefault(trial.id, now)
        if self._bars.are_drawn and shown is None:
            words = f"workers are starting, {now - begun:.0f} s"
            self._bars.show(trial.id, 0, trial.run.steps, words)
        if self._bars.are_drawn or now - self._last_line.get(trial.id, begun) < LINE_SECONDS:
            return
        self._last_line[trial.id] = now
        what = "workers are starting" if shown is None else f"at step {shown}/{trial.run.steps}"
        what = "evaluates and saves" if shown == trial.run.steps else what
        self._say(f"{trial.id}: {what}, {now - begun:.0f} s since it was started")

    def _show(self, trial: Trial, step: int, words: str) -> None:
        if self._bars.are_drawn:
            self._bars.show(trial.id, step, trial.run.steps, words)
        elif time.monotonic() - self._last_line.get(trial.id, -LINE_SECONDS) >= LINE_SECONDS:
            self._last_line[trial.id] = time.monotonic()
            self._say(f"{trial.id}: step {step}/{trial.run.steps}  {words}")
        else:
            return  # too soon for another line: shown at a later call
        self._shown[trial.id] = step
