"""How far each trial of a sweep is, read from what it has left on disk."""

from collections.abc import Sequence

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import UserError
from dpot_scale.runs.folder import found_marks
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.journal import Entry, Journal, is_running
from dpot_scale.scaling.plan import Trial
from dpot_scale.terminal import table
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL, newest_record


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
    journal = Journal(sweep.directory)
    rows = []
    for trial in trials:
        last = journal.last(trial.id)
        state = _state(trial, last, running=running)
        record = newest_record(trial.run.directory / SPOOL, containing=names.LOSS)
        step = int(record["step"]) if record else 0
        reason = last.reason if last is not None and state == "failed" else ""
        attempts = str(last.attempt) if last is not None else "0"
        rows.append((trial.id, state, f"{step}/{trial.run.steps}", attempts, reason))
    title = f"sweep {sweep.name} in {sweep.directory}: {'running' if running else 'not running'}"
    return f"{title}\n\n{table(('trial', 'state', 'step', 'attempts', ''), rows, left=2)}"


def _state(trial: Trial, last: Entry | None, *, running: bool) -> str:
    if read_result(trial.run.directory) is not None:
        return "finished"
    if last is None:
        return "waiting"
    if last.event == "started" and not running:
        return "interrupted"  # its driver was killed before it could say so
    return "running" if last.event == "started" else last.event
