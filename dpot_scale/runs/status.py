"""How far a run is and what checkpoints it has, read from what it has left on the disk."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from dpot_scale.checkpoints.archive import Archive
from dpot_scale.checkpoints.checkpoint import Checkpoint, committed
from dpot_scale.checkpoints.retention import kept_for_ever
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, LOCK, QUARANTINE, RUN_CONFIG
from dpot_scale.config.run import CheckpointConfig, RunConfig
from dpot_scale.errors import UserError
from dpot_scale.files import is_held
from dpot_scale.runs.folder import found_marks
from dpot_scale.runs.result import read_result
from dpot_scale.terminal import table, under_way
from dpot_scale.tracking import names
from dpot_scale.tracking.spool import SPOOL, newest_record, read_metrics
from dpot_scale.training.quarantine import read_quarantine

GIB = 2**30

log = logging.getLogger(__name__)


def run_status(directory: Path) -> str:
    """Return how far a run is, and a line per checkpoint.

    Raises:
        UserError: no run was started in the folder, or it cannot be read.
    """
    if not found_marks(directory, "run"):
        raise UserError(f"no run was started in {directory}; give the folder of a run")
    path = directory / RUN_CONFIG
    config = load_run(str(path)) if path.is_file() else None
    record = newest_record(directory / SPOOL, containing=names.LEARNING_RATE)
    found = committed(directory / CHECKPOINTS)
    # A record that somebody has removed does not undo the steps.
    step = max(int(record["step"]) if record else 0, found[0].state.step if found else 0)
    of_all = "" if config is None else f" of {config.steps}"
    lines = [f"run {directory.name} in {directory}: {_state(directory)}, step {step}{of_all}"]
    if unread := len(read_quarantine(directory)):
        lines.append(f"{unread:,} windows could not be read, {directory / QUARANTINE} says which")
    if not found:
        return "\n".join([*lines, "it has no checkpoint"])
    return "\n".join([*lines, "", _table(directory, found, config)])


def _state(directory: Path) -> str:
    if is_held(directory / LOCK):
        return "running"
    return "not running" if read_result(directory) is None else "finished"


def _table(directory: Path, found: list[Checkpoint], config: RunConfig | None) -> str:
    rules = CheckpointConfig() if config is None else config.checkpoint
    where = _copies(directory, rules, found[0].marker.identity)
    seconds = read_metrics(directory / SPOOL).get(names.SAVE_SECONDS, {})
    times = {one.state.step: one.marker.time for one in found if one.marker.time is not None}
    for_ever = kept_for_ever([one.state.step for one in found], rules, times)
    rows = []
    for checkpoint in found:
        step, marker = checkpoint.state.step, checkpoint.marker
        size = sum(census.bytes for census in marker.files.values()) / GIB
        notes = ["kept for ever"] if step in for_ever else []
        notes += where(step)
        when = "" if marker.time is None else time.strftime("%F %T", time.localtime(marker.time))
        taken = f"{seconds[step]:.1f}" if step in seconds else ""
        ranks = str(marker.world_size)
        rows.append((str(step), when, f"{size:.3g}", ranks, taken, ", ".join(notes)))
    head = ("checkpoint", "saved", "GiB", "ranks", "seconds", "")
    return table(head, rows, left=0)


def _copies(directory: Path, rules: CheckpointConfig, identity: str) -> Callable[[int], list[str]]:
    """Return what says of a step whether the archive has its checkpoint, if there is one."""
    if rules.archive is None:
        return lambda _: []
    try:
        with under_way("asking the archive"):
            steps = Archive(rules.archive, directory.name, identity).steps()
    except UserError as error:
        log.warning("%s", error)
        return lambda _: ["archive not reachable"]
    return lambda step: ["in the archive" if step in steps else "not in the archive"]
