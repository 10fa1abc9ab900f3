"""Resources of the connected cluster that are held, or asked for, until workers start on them."""

from collections.abc import Mapping

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

POLL_SECONDS = 1.0


class Held:
    """What Ray holds, or is asked to hold, for workers.

    It is this process's own: other ones ask beside it, and Ray forgets it when this one ends,
    however it ends.

    Args:
        worker: The resources of one worker, by Ray's names.
    """

    def __init__(self, worker: Mapping[str, float]) -> None:
        self._worker = dict(worker)
        self._group: PlacementGroup | None = None
        self.workers = 0

    @property
    def id(self) -> str:
        """Return how Ray names what it is asked for; empty where it is asked for nothing."""
        return "" if self._group is None else str(self._group.id.hex())

    def ask(self, workers: int) -> None:
        """Ask for so many workers, in place of other ones."""
        if self._group is None or workers != self.workers:
            self.release()
            self.workers, self._group = workers, placement_group([self._worker] * workers)

    def wait(self, workers: int) -> bool:
        """Wait a moment for so many workers; return whether there is room for them."""
        self.ask(workers)
        assert self._group is not None
        return bool(self._group.wait(POLL_SECONDS))

    def is_there(self) -> bool:
        """Return whether Ray holds what it was asked for."""
        return self._group is not None and bool(self._group.wait(0))

    def release(self) -> None:
        """Give it back, or ask for it no longer."""
        if self._group is not None:
            remove_placement_group(self._group)
        self._group = None
