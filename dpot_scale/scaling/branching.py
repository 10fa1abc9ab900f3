"""Branches: trials that begin at a checkpoint of their trunk instead of at step 0."""

import json
from collections.abc import Callable
from pathlib import Path

from dpot_scale.checkpoints.branch import take_over
from dpot_scale.checkpoints.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    checkpoint_name,
    committed,
    has_marker,
    verify,
)
from dpot_scale.config.identity import identity
from dpot_scale.config.places import CHECKPOINTS, QUARANTINE, ROLLBACKS
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.files import cannot_write, write_whole
from dpot_scale.scaling.endings import Ended
from dpot_scale.scaling.plan import Trial
from dpot_scale.tracking.names import REL_L2, final_key
from dpot_scale.tracking.spool import SPOOL, STEP, complete_records

FINAL = final_key(REL_L2)  # is in the record of the end of a run


def may_begin(trial: Trial) -> bool:
    """Return whether the trunk of a trial has committed the checkpoint that the trial begins at."""
    assert trial.after is not None
    return has_marker(_of_trunk(trial) / checkpoint_name(trial.after.step))


def why_hopeless(trial: Trial, ended: Ended) -> str | None:
    """Return why a branch cannot begin, if its trunk ended before it came so far."""
    if trial.after is None or may_begin(trial):
        return None
    trunk = trial.after.trial
    if trunk in ended.failures:
        return f"its trunk {trunk} failed: {ended.failures[trunk]}"
    return f"its trunk {trunk} was cancelled" if trunk in ended.cancelled else None


def begin_at_trunk(trial: Trial, resources: ResourcesConfig, say: Callable[[str], None]) -> None:
    """Give a branch that has no checkpoint yet the last one that its trunk shares with it.

    Without one, as where the trunk was trained before anybody thought of the branch, the branch
    begins at step 0: it computes the same, for longer.

    Args:
        trial: The branch.
        resources: Its workers, which must be those of the trunk.
        say: Takes one line for the user.

    Raises:
        DiskError: the folder of the branch cannot be written.
        CheckpointError: another version wrote a checkpoint of the trunk.
    """
    assert trial.after is not None
    directory = trial.run.directory / CHECKPOINTS
    if any(has_marker(folder) for folder in checkpoint_folders(directory).values()):
        return
    found = _shared(trial, resources)
    if found is None:
        say(f"{trial.id}: {trial.after.trial} has no checkpoint to begin at; begins at step 0")
        return
    try:
        _take_curve(trial, found.state.step)
        _take_records(trial)
        take_over(found, directory, identity(trial.run, trial.contents))
    except OSError as error:
        raise cannot_write(directory, error) from error
    say(f"{trial.id}: begins at step {found.state.step} of {trial.after.trial}")


def _shared(trial: Trial, resources: ResourcesConfig) -> Checkpoint | None:
    """Return the newest intact checkpoint of the trunk that the branch would have made, too."""
    assert trial.after is not None
    device = "cuda" if resources.gpus_per_worker else "cpu"
    least, most = resources.least_workers, resources.most_workers
    for checkpoint in committed(_of_trunk(trial)):
        marker = checkpoint.marker
        fits = least <= marker.world_size <= most and marker.device == device
        if checkpoint.state.step <= trial.after.step and fits and not verify(checkpoint):
            return checkpoint
    return None


def _take_curve(trial: Trial, step: int) -> None:
    """Begin the curve of a branch with that of its trunk, so that it is whole.

    What the trunk reached at its end is recorded at step 0, too, and is not the branch's.
    """
    source, target = _trunk(trial) / SPOOL, trial.run.directory / SPOOL
    if not source.exists() or target.exists():
        return
    records = [
        record
        for record in complete_records(source, 0)[0]
        if record[STEP] <= step and FINAL not in record
    ]
    write_whole(target, "".join(f"{json.dumps(record)}\n" for record in records))


def _take_records(trial: Trial) -> None:
    """Let a branch skip and replace the windows that its trunk does: it has learned from others."""
    for name in (ROLLBACKS, QUARANTINE):
        source = _trunk(trial) / name
        if source.exists():
            write_whole(trial.run.directory / name, source.read_bytes())


def _trunk(trial: Trial) -> Path:
    assert trial.after is not None
    return trial.run.output / trial.after.trial


def _of_trunk(trial: Trial) -> Path:
    return _trunk(trial) / CHECKPOINTS
