"""What a run does where a checkpoint cannot be written: it goes on while little is at stake."""

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from dpot_scale.engine.runtime import World
from dpot_scale.errors import DiskError
from dpot_scale.files import going_on

# After so many checkpoints in a row that no disk took, too much would be lost.
MOST_FAILED = 10

log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """What is known once a save was made, or begun in a thread."""

    newest: int  # the step of the newest checkpoint that is on the disk
    metrics: Mapping[str, float] = MappingProxyType({})


class Saving:
    """Saves, and counts how often that fails one after the other.

    Args:
        world: The ranks, all of which call it together.
        newest: The step of the newest checkpoint.

    Attributes:
        newest: The same, as it moves on: the step to which the run would go back.
    """

    def __init__(self, world: World, newest: int) -> None:
        self._world = world
        self._failed = 0
        self.newest = newest

    def attempt(self, save: Callable[[], Saved], *, must: bool) -> Mapping[str, float] | None:
        """Return the metrics of a save; None where the disk is full and a later save may do.

        Args:
            save: Commits a checkpoint, or begins to and says that the one before it failed in a
                thread. It fails on all ranks or on none.
            must: Whether there is no later one: it is tried once more at once. Then `save` returns
                when it is committed.

        Raises:
            DiskError: what must be saved was not, or `MOST_FAILED` in a row.
        """
        saved = None
        try:
            saved = save()
        except DiskError as error:
            self._failed += 1
            if not must:
                if self._failed == MOST_FAILED:
                    raise
                self._say(error)
                return None
        if saved is None:  # not in the clause above: the error keeps the state that it failed with
            saved = save()
        if saved.newest > self.newest:
            self.newest, self._failed = saved.newest, 0
        return saved.metrics

    def _say(self, error: DiskError) -> None:
        if self._world.is_main:
            log.warning(
                "%s; training goes on and saves when the next checkpoint is due, until then a "
                "restart goes back to step %d",
                going_on(error),
                self.newest,
            )
