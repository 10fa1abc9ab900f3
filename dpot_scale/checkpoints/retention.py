"""Decides which checkpoints of a run are kept."""

from collections.abc import Iterable

from dpot_scale.config.run import CheckpointConfig


def removable(steps: Iterable[int], newest: int, config: CheckpointConfig) -> set[int]:
    """Return the steps whose checkpoints may be removed, once a new one is committed.

    The newest `keep` stay, and every milestone. Later ones go: the run went back behind them,
    because they were damaged, so they must not count among the newest.

    Args:
        steps: The steps of all committed checkpoints.
        newest: The step of the one that was just committed.
        config: The rules of what to keep.
    """
    steps = set(steps)
    until_now = sorted(step for step in steps if step <= newest)
    kept = {*until_now[-config.keep :], *filter(config.is_milestone, until_now)}
    return steps - kept
