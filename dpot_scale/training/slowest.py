"""Which rank the others wait for: how much of its time each spends in collective calls."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from dpot_scale.tracking import names

LOOKS = 300  # of which the share is
FEWEST = 20  # below it there is no share


class Waits:
    """How often this rank was seen waiting for the others, of its newest looks.

    All ranks take equally long for a step, as they wait for each other in it; the one that waits
    least is the slowest. A GPU waits beside the host, so there only what the host does counts.
    """

    def __init__(self) -> None:
        self._looks: deque[bool] = deque(maxlen=LOOKS)
        self._is_paused = False

    def note(self, is_waiting: bool) -> None:
        """Count one look at what this rank does."""
        if not self._is_paused:
            self._looks.append(is_waiting)

    def share(self) -> float:
        """Return the share of its time (0 to 1) that this rank waits; NaN if that is not known."""
        return sum(self._looks) / len(self._looks) if len(self._looks) >= FEWEST else math.nan

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside, which the main rank may do alone."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False


def slowest(waits: Sequence[float]) -> Mapping[str, float]:
    """Return which rank the others wait for, and by how much.

    The spread is 1 - t_fastest / t_slowest, where t is the part of a step in which a rank does not
    wait for others: 0 where all are equally fast.

    Args:
        waits: The shares by rank, as `Waits.share` returns them.
    """
    if len(waits) < 2 or any(math.isnan(share) for share in waits):
        return {}
    works = [1 - share for share in waits]
    most = max(works)
    spread = 1 - min(works) / most if most else 0.0
    return {names.SLOWEST_RANK: works.index(most), names.RANK_SPREAD: spread}
