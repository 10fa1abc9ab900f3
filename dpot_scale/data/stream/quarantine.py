"""Windows that cannot be read, and the rule by which others take their places.

The rule knows the position of a window and what can be read, and nothing else. So any number of
ranks, and any attempt of a run, trains on the same windows.
"""

from collections.abc import Iterator, Sequence

from dpot_scale.config.base import NonNegativeInt, PositiveInt, Section
from dpot_scale.data.stream.mixture import BLOCK
from dpot_scale.data.stream.spans import Span


class Quarantined(Section):
    """A window that cannot be read, and which one is seen in its place."""

    position: NonNegativeInt
    """Of the window, in the stream."""
    stand_in: NonNegativeInt
    """The position of the window that is seen in its place, and in its own."""
    dataset: str
    trajectory: NonNegativeInt
    """Of the training split, as the frame counted from 0."""
    frame: NonNegativeInt
    """The first one of the window."""
    stride: PositiveInt
    file: str
    """The shard that holds the trajectory."""
    reason: str


def stand_ins(position: int, global_batch: int, skipped: Sequence[Span]) -> Iterator[int]:
    """Yield the positions whose windows may take the place of one, the first choice first.

    These are those behind it in its step, then those before it in its step, then the next ones.

    Args:
        position: Of the window that cannot be read.
        global_batch: Windows of a step.
        skipped: What the run skips: no window of it is seen.
    """
    first = position - position % global_batch
    end = first + global_batch
    yield from range(position + 1, end)
    yield from range(first, position)
    for later in range(end, end + BLOCK):
        if not any(span.first <= later < span.end for span in skipped):
            yield later
