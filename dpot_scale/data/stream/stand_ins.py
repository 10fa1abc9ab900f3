"""Finds, for windows that cannot be read, the windows that take their places."""

from collections.abc import Callable, Mapping, Sequence

from dpot_scale.data.stream.assembly import Assembler, Window
from dpot_scale.data.stream.quarantine import Quarantined, stand_ins
from dpot_scale.data.stream.spans import Span
from dpot_scale.errors import DataError

MOST_TRIED = 64  # windows for one place: the other ranks wait meanwhile


class StandIns:
    """Decides which window is read at each position.

    Args:
        window_at: Returns the window at a position of the stream.
        assembler: Reads windows.
        frames: Of a window.
        global_batch: Windows of a step.
        skipped: What the run skips.
        known: Of each position whose window could not be read: that of the window in its place.
    """

    def __init__(
        self,
        window_at: Callable[[int], Window],
        assembler: Assembler,
        frames: int,
        global_batch: int,
        skipped: Sequence[Span],
        known: Mapping[int, int],
    ) -> None:
        self._window_at = window_at
        self._assembler = assembler
        self._frames = frames
        self._global_batch = global_batch
        self._skipped = skipped
        self._known = dict(known)

    def windows(self, positions: Sequence[int]) -> list[Window]:
        """Return the windows that are seen at positions, as far as is known."""
        return [self._window_at(self._known.get(position, position)) for position in positions]

    def find(self, positions: Sequence[int]) -> list[Quarantined]:
        """Read each window alone, and find another one for those that cannot be read.

        Raises:
            MachineError: a window may be intact.
            DataError: of the first window for which there is none: nothing that the model sees on
                the same grid can be read.
        """
        found = []
        for position in positions:
            problem = self._problem(self._window_at(self._known.get(position, position)))
            if problem is not None:
                found.append(self._replace(position, problem))
                self._known[position] = found[-1].stand_in
        return found

    def _replace(self, position: int, problem: DataError) -> Quarantined:
        window = self._window_at(position)
        space, tried = self._assembler.space_of(window.store), 0
        for stand_in in stand_ins(position, self._global_batch, self._skipped):
            other = self._window_at(stand_in)
            if self._assembler.space_of(other.store) != space:
                continue
            if self._problem(other) is None:
                return Quarantined(
                    position=position,
                    stand_in=stand_in,
                    dataset=window.store.info.name,
                    trajectory=window.cut.trajectory,
                    frame=window.cut.start,
                    stride=window.cut.stride,
                    file=str(window.store.file_of(window.split, window.cut.trajectory)),
                    reason=str(problem),
                )
            tried += 1
            if tried == MOST_TRIED:
                break
        raise problem

    def _problem(self, window: Window) -> DataError | None:
        """Return why a window cannot be read.

        Raises:
            MachineError: it may be intact.
        """
        room = self._assembler.empty(1, self._frames, self._assembler.space_of(window.store))
        try:
            self._assembler.batch([window], room)
        except DataError as error:
            return error
        return None
