"""Decides which checkpoints of a run are kept, and removes the others."""

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from dpot_scale.config.places import MARKER
from dpot_scale.config.run import CheckpointConfig


def removable(
    steps: Iterable[int],
    newest: int,
    config: CheckpointConfig,
    times: Mapping[int, float] | None = None,
) -> set[int]:
    """Return the steps whose checkpoints may be removed, once a new one is committed.

    The newest `keep` stay, every milestone, and one of every `keep_hours`. Later ones go: the run
    went back behind them, because they were damaged, so they must not count among the newest.

    Args:
        steps: The steps of all committed checkpoints.
        newest: The step of the one that was just committed.
        config: The rules of what to keep.
        times: When they were committed, in seconds, as far as that is known.
    """
    steps = set(steps)
    until_now = sorted(step for step in steps if step <= newest)
    return steps - {*until_now[-config.keep :], *kept_for_ever(until_now, config, times or {})}


def kept_for_ever(
    steps: Iterable[int], config: CheckpointConfig, times: Mapping[int, float]
) -> set[int]:
    """Return the steps of which no later checkpoint takes the place.

    Args:
        steps: The steps of all committed checkpoints.
        config: The rules of what to keep.
        times: When they were committed, in seconds, as far as that is known.
    """
    kept = set(filter(config.is_milestone, steps))
    if config.keep_hours:
        kept |= _spaced([(step, times[step]) for step in sorted(steps) if step in times], config)
    return kept


def _spaced(committed: Iterable[tuple[int, float]], config: CheckpointConfig) -> set[int]:
    """Return the first step, and each that follows the one before it in here by `keep_hours`.

    One that was committed before it, by a clock that was set back, does so, too.
    """
    found: set[int] = set()
    newest = 0.0
    for step, time in committed:
        if not found or not 0 <= time - newest < 3600 * config.keep_hours:
            found.add(step)
            newest = time
    return found


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, which stops existing at once: the marker goes first.

    Raises:
        OSError: it cannot be removed.
    """
    if folder.is_symlink():
        folder.unlink()  # a user keeps it elsewhere
    if not folder.is_dir():
        return
    with suppress(FileNotFoundError, IsADirectoryError):  # what was never committed
        (folder / MARKER).unlink()
    shutil.rmtree(folder, ignore_errors=True)
