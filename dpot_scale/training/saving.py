"""What a run does where a checkpoint cannot be written: it goes on while little is at stake."""

import logging
from collections.abc import Callable, Mapping

from dpot_scale.engine.runtime import World
from dpot_scale.errors import DiskError
from dpot_scale.files import going_on

# After so many checkpoints in a row that no disk took, too much would be lost.
MOST_FAILED = 10

log = logging.getLogger(__name__)


class Saving:
    """Saves, and counts how often that fails one after the other.

    Args:
        world: The ranks, all of which call it together.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._failed = 0

    def attempt(
        self, save: Callable[[], Mapping[str, float]], *, must: bool, newest: int
    ) -> Mapping[str, float] | None:
        """Return what `save` does; None where the disk is full and a later save may do.

        Args:
            save: Commits a checkpoint. It fails on all ranks or on none.
            must: Whether there is no later one: it is tried once more at once.
            newest: The step to which the run would go back.

        Raises:
            DiskError: what must be saved was not, or `MOST_FAILED` in a row.
        """
        try:
            metrics = save()
        except DiskError as error:
            self._failed += 1
            if self._failed == MOST_FAILED:
                raise
            if not must:
                self._say(error, newest)
                return None
            metrics = save()
        self._failed = 0
        return metrics

    def _say(self, error: DiskError, newest: int) -> None:
        if self._world.is_main:
            log.warning(
                "%s; training goes on and saves when the next checkpoint is due, until then a "
                "restart goes back to step %d",
                going_on(error),
                newest,
            )
