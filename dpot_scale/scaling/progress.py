"""How far the trials are, read from their spools: a live table on a terminal, else lines."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dpot_scale.runs.signs import Sign, newest_attempt, read_sign
from dpot_scale.scaling.plan import Trial
from dpot_scale.terminal import LiveTable, clock
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL, newest_record

LINE_SECONDS = 5.0  # between two lines about one trial, and of silence, where there is no terminal
MOST_NAMED = 3  # trials in one line; of more, how many do what
HEADER = ("trial", "state", "step", "loss", "held-out", "windows/s", "time left")
WAITING = "waiting"
# What trials do, in one word of one and of several.
DOING = (
    ("starts", "start"),
    ("compiles", "compile"),
    ("trains", "train"),
    ("evaluates", "evaluate and save"),
)


@dataclass
class _Progress:
    """What is known of a trial."""

    trial: Trial
    state: str = WAITING
    share: str = ""  # of the workers that it may have, where their number changes
    step: int | None = None  # of its newest record
    loss: float = 0.0
    speed: float = 0.0  # windows per second
    held_out: float | None = None  # mean of the datasets
    read_at: float = 0.0  # when this was found
    has_begun: bool = False  # its workers were started
    begun: float = 0.0  # when
    begun_at: int | None = None  # the step that it had then
    attempt_before: int = 0  # of which its ranks had left signs then
    ended: bool = False
    last_line: float = field(default=-LINE_SECONDS)
    said_step: int | None = None

    def read(self) -> None:
        """Take what the trial has recorded since."""
        spool = self.trial.run.directory / SPOOL
        record = newest_record(spool, containing=names.LOSS)
        if record is None or (record["step"] == self.step and not self.ended):
            return
        self.step, self.loss = int(record["step"]), record[names.LOSS]
        self.read_at = time.monotonic()
        self.speed = record[names.WINDOWS_PER_SECOND]
        scores = newest_record(spool, containing=f"/{names.MEAN}/{names.REL_L2}") or {}
        for split in ("valid", "test"):
            key = names.score_key(names.MEAN, split=split)
            if key in scores:
                self.held_out = scores[key]
                return

    def is_at_end(self) -> bool:
        return self.step == self.trial.run.steps

    def does(self) -> str:
        """Return in one word what a trial does whose workers were started."""
        if self.is_at_end():
            return "evaluates"
        if self.step != self.begun_at:
            return "trains"
        sign = self.sign()
        return "compiles" if sign is not None and sign.compiles else "starts"

    def begin(self) -> None:
        """Note that its workers were started, and what there is of it."""
        self.has_begun, self.begun, self.begun_at = True, time.monotonic(), self.step
        self.attempt_before = newest_attempt(self.trial.run.directory)

    def sign(self) -> Sign | None:
        """Return what the first of its ranks says of itself; None before they have met."""
        sign = read_sign(self.trial.run.directory, 0)
        return sign if sign is not None and sign.attempt > self.attempt_before else None

    def doing(self) -> str:
        """Return the same for a line, where nothing is new."""
        now, of_all = time.monotonic(), f"{self.step}/{self.trial.run.steps}"
        since = f"{now - self.begun:.0f} s since it was started"
        if self.does() == "evaluates":
            return f"evaluates and saves, {since}"
        if self.does() in {"starts", "compiles"}:
            goes_on = f" to go on at step {of_all}" * (self.step is not None)
            every = self.trial.run.tracking.log_every
            first = min(((self.step or 0) // every + 1) * every, self.trial.run.steps)
            return f"{self.beginning()}{goes_on}; its next record is of step {first}, {since}"
        ago = now - self.read_at
        left = (self.seconds_left() or 0.0) - ago
        time_left = f", about {clock(left)} left" if left > 0 else ""
        return f"trains, step {of_all} was {ago:.0f} s ago{time_left}"

    def beginning(self) -> str:
        """Return what a trial does before its first record."""
        if self.does() == "compiles":
            return "compiles its model"
        # Its workers load torch, and compile an operator of DeepSpeed where there is none yet.
        return (
            "starts its workers" if self.sign() is None else "makes its model and its first steps"
        )

    def seconds_left(self) -> float | None:
        """Return how long the steps that are left take at the newest speed."""
        if self.step is None or not self.speed:
            return None
        steps = self.trial.run.steps - self.step
        return steps * self.trial.run.batch.global_batch / self.speed

    def row(self) -> tuple[str, ...]:
        if self.step is None:
            return (self.trial.id, self.state, f"0/{self.trial.run.steps}", "", "", "", "")
        error = "" if self.held_out is None else f"{self.held_out:.4f}"
        left = None if self.ended else self.seconds_left()
        return (
            self.trial.id,
            self.state,
            f"{self.step}/{self.trial.run.steps}",
            f"{self.loss:.4f}",
            error,
            f"{self.speed:.1f}",
            "" if left is None else clock(left),
        )

    def words(self) -> str:
        """Return the same for a line."""
        held_out = "" if self.held_out is None else f"  held-out {self.held_out:.4f}"
        left = self.seconds_left()
        time_left = f"  {clock(left)} left" if left else ""
        workers = f"  {self.share} workers" if self.share else ""
        return f"loss {self.loss:.4f}{held_out}  {self.speed:.1f} windows/s{workers}{time_left}"


class TrialProgress:
    """Shows the trials of a sweep while they train.

    Args:
        trials: Those that are about to run.
        say: Prints one line where there is no terminal.
    """

    def __init__(self, trials: Sequence[Trial], say: Callable[[str], None]) -> None:
        self._known = {trial.id: _Progress(trial) for trial in trials}
        self._table = LiveTable()
        self._print = self._table.say if self._table.is_drawn else say
        self._last_line = time.monotonic()
        for one in self._known.values():
            one.read()  # what it has from attempts before

    def update(self, running: Iterable[Trial] = ()) -> None:
        """Show what the trials have recorded since the last call.

        Args:
            running: Those whose workers were started: what these do is said while nothing is new.
        """
        started = [self._known[trial.id] for trial in running]
        for one in started:
            if not one.has_begun:
                one.begin()
        for one in self._known.values():
            if not one.ended:
                one.read()
                if not self._table.is_drawn:
                    self._say_progress(one)
        for one in started:
            self._name_state(one)
        if not self._table.is_drawn:
            self._break_silence(started)
        self._draw()

    def finish(self, trial: Trial, how: str) -> None:
        """Say how a trial ended; a table keeps its row."""
        one = self._known[trial.id]
        one.state, one.ended = how.split(":")[0].split(",")[0], True
        one.read()  # its last record
        self._say(f"{trial.id}: {how}")
        self._draw()

    def share(self, trial: Trial, share: str) -> None:
        """Take how many workers a trial has of those that it may have, as `1/4`."""
        self._known[trial.id].share = share

    def step(self, trial: Trial) -> int | None:
        """Return the newest step that a trial has recorded."""
        return self._known[trial.id].step

    def seconds_left(self, trial: Trial) -> float | None:
        """Return how long a trial still takes at its newest speed, if it has one."""
        return self._known[trial.id].seconds_left()

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._table.close()

    def _say(self, line: str) -> None:
        self._last_line = time.monotonic()
        self._print(line)

    def _name_state(self, one: _Progress) -> None:
        """Name what a trial does that runs, in few letters: 80 columns suffice for its row."""
        one.state = one.does()
        if one.state in {"starts", "compiles"}:
            one.state += f", {time.monotonic() - one.begun:.0f} s"
        elif one.share and one.state == "trains":
            one.state += f", {one.share}"

    def _break_silence(self, started: Sequence[_Progress]) -> None:
        """Say what all trials do whose workers were started, where no line came for a while."""
        if not started or time.monotonic() - self._last_line < LINE_SECONDS:
            return
        for one in started:
            one.last_line = time.monotonic()
        if len(started) <= MOST_NAMED:
            self._say("; ".join(f"{one.trial.id}: {one.doing()}" for one in started))
            return
        doing = [one.does() for one in started]
        counts = ", ".join(f"{doing.count(what)} {words}" for what, words in DOING if what in doing)
        self._say(f"{len(started)} trials: {counts}")

    def _say_progress(self, one: _Progress) -> None:
        """Say a step that is new, but not too often."""
        now = time.monotonic()
        if one.step == one.said_step or now - one.last_line < LINE_SECONDS:
            return
        one.last_line, one.said_step = now, one.step
        self._say(f"{one.trial.id}: step {one.step}/{one.trial.run.steps}  {one.words()}")

    def _draw(self) -> None:
        """Draw all trials; if there are more than rows, those that train and wait first."""
        if not self._table.is_drawn:
            return
        known = list(self._known.values())
        if len(known) > self._table.room:
            known.sort(key=lambda one: (one.ended, one.state == WAITING))
        rows = [one.row() for one in known[: self._table.room]]
        self._table.show(HEADER, rows, self._summary())

    def _summary(self) -> str:
        """Return how many trials are in which state."""
        ended = [one.state for one in self._known.values() if one.ended]
        waiting = sum(one.state == WAITING for one in self._known.values())
        counts = {state: ended.count(state) for state in ended}
        counts["running"] = len(self._known) - len(ended) - waiting
        counts[WAITING] = waiting
        words = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
        return f"{len(self._known)} trials: {words}"
