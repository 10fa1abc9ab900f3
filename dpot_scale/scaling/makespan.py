"""When each trial of a plan would run, packed on some devices as the controller packs them."""

import heapq
from collections.abc import Mapping, Sequence

from dpot_scale.scaling.plan import Trial


def makespan(trials: Sequence[Trial], at_a_time: int) -> float:
    """Return the seconds from the first start to the last end.

    Whenever there is room, the largest trial that may begin does. A branch may when its trunk has
    made the steps that both share.

    Args:
        trials: The trials. A branch whose trunk is not among them may begin at once.
        at_a_time: How many there is room for.
    """
    probe = [trial for trial in trials if trial.role == "probe"]
    if probe and len(probe) < len(trials):  # which all others wait for
        others = [trial for trial in trials if trial.role != "probe"]
        return makespan(probe, at_a_time) + makespan(others, at_a_time)
    waiting = sorted(trials, key=lambda trial: -trial.seconds)
    began: dict[str, float] = {}
    by_id = {trial.id: trial for trial in trials}
    ends: list[float] = []  # of what runs
    now = 0.0
    while waiting:
        ready = [(_ready_at(trial, began, by_id), trial) for trial in waiting]
        free = len(ends) < at_a_time
        may = next((trial for at, trial in ready if at <= now), None) if free else None
        if may is not None:
            waiting.remove(may)
            began[may.id] = now
            heapq.heappush(ends, now + may.seconds)
            continue
        # Until something ends, or a branch may begin where there is room for it.
        later = [at for at, _ in ready if at > now and free]
        now = min([*later, *ends[:1]])
        while ends and ends[0] <= now:
            heapq.heappop(ends)
    return max([now, *ends])


def _ready_at(trial: Trial, began: Mapping[str, float], by_id: Mapping[str, Trial]) -> float:
    """Return when a trial may begin; infinity while that is not known."""
    trunk = by_id.get(trial.after.trial) if trial.after is not None else None
    if trial.after is None or trunk is None:
        return 0.0
    start = began.get(trunk.id, float("inf"))
    return start + trunk.seconds * trial.after.step / trunk.run.steps
