"""How far each trial of a sweep is, read from what it has left on disk."""

import sys
import time
from collections.abc import Callable, Sequence

from dpot_scale.config.places import SWEEP_CONFIG
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import UserError
from dpot_scale.runs.folder import found_marks
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.earlier import earlier_trials
from dpot_scale.scaling.journal import Entry, Journal, is_running
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.stopping import is_cancelled
from dpot_scale.terminal import table
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL, newest_record

WATCH_SECONDS = 2.0
QUIET_SECONDS = 60.0  # after which a file is told that nothing has changed
CLEAR = "\033[2J\033[H"  # a terminal, and to its upper left


def status_table(sweep: SweepConfig, trials: Sequence[Trial]) -> str:
    """Return one line per trial: its state, steps, attempts, and why it failed.

    Raises:
        UserError: no sweep was started in the folder, or it cannot be read.
    """
    running = is_running(sweep)
    if not found_marks(sweep.directory, "sweep"):
        raise UserError(
            f"no sweep was started in {sweep.directory} yet; start it with `run` in place of "
            "`status`, or give the `--config` and overrides that it was started with"
        )
    newest = Journal(sweep.directory).newest()
    rows = []
    for trial in trials:
        last = newest.get(trial.id)
        state = _state(trial, last, running=running)
        record = newest_record(trial.run.directory / SPOOL, containing=names.LOSS)
        step = int(record["step"]) if record else 0
        attempts = str(last.attempt) if last is not None else "0"
        words = _words(sweep, trial, last, state)
        rows.append((trial.id, state, f"{step}/{trial.run.steps}", attempts, words))
    states = [state for _, state, *_ in rows]
    counts = ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))
    more = len(earlier_trials(sweep, trials))
    of_earlier = f", {more} finished of earlier designs" if more else ""
    title = f"sweep {sweep.name} in {sweep.directory}: {'running' if running else 'not running'}"
    shown = table(("trial", "state", "step", "attempts", ""), rows, left=2)
    text = f"{title}; {counts}{of_earlier}\n\n{shown}"
    if newest and not {trial.id for trial in trials} & newest.keys():
        # The design is of the command line, which leaves out what the sweep was started with.
        text += (
            "\n\nnone of these was started: the sweep there has another design; "
            f"`--config {sweep.directory / SWEEP_CONFIG}` shows its trials"
        )
    return text


def watch_status(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    say: Callable[[str], None],
    *,
    once: bool,
) -> None:
    """Show the status once, or until no process runs the sweep: whenever it changes.

    A terminal shows the time besides, at each look. A file gets a line where nothing has changed
    for a while.

    Raises:
        UserError: as `status_table`.
    """
    shown, said, is_live = "", time.monotonic(), not once and sys.stdout.isatty()
    while True:
        # A sweep may end between the two: then its last state is shown before this ends, too.
        running = is_running(sweep)
        text, now = status_table(sweep, trials), time.strftime("%H:%M:%S")
        if is_live:
            say(f"{CLEAR}{text}\n\nat {now}" + ", Ctrl-C leaves the sweep running" * running)
        elif text != shown or time.monotonic() - said >= QUIET_SECONDS:
            say(f"no change until {now}" if text == shown else text)
            shown, said = text, time.monotonic()
        if once or not running:
            return
        time.sleep(WATCH_SECONDS)


def _words(sweep: SweepConfig, trial: Trial, last: Entry | None, state: str) -> str:
    """Return on how many workers a trial runs, why it failed, or what it waits for."""
    if state == "running" and last is not None and last.workers and sweep.resources.is_elastic:
        why = f", started again because {last.reason}" if last.reason else ""
        return f"on {sweep.resources.share_in_words(last.workers)}{why}"
    if state == "waiting" and last is not None and last.event == "resized":
        return f"for room, because {last.reason}"
    if state == "failed" and last is not None:
        return last.reason
    if state == "waiting" and trial.role == "unprobed":
        return "after the probe, which finds its rate"
    if state == "waiting" and trial.after is not None:
        return f"after step {trial.after.step} of {trial.after.trial}"
    return ""


def _state(trial: Trial, last: Entry | None, *, running: bool) -> str:
    if read_result(trial.run.directory) is not None:
        return "finished"
    if is_cancelled(trial.run.directory):
        return "cancelled"
    if last is None:
        return "waiting"
    if last.event in ("started", "resized") and not running:
        return "interrupted"  # its driver was killed before it could say so
    if last.event in ("cancelled", "resized"):
        return "waiting"  # that was taken back, or it begins again
    return "running" if last.event == "started" else last.event
