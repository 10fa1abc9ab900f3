"""Spans: positions of the training stream that a run skips.

The stream itself does not change. A run that skips a span sees, at that step and after it, what an
undisturbed run sees later; so resuming stays arithmetic.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Positions of whole steps that are skipped."""

    first: int
    end: int  # the position behind the last one


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the same positions as spans that neither overlap nor touch, in order."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.first <= found[-1].end:
            found[-1] = Span(found[-1].first, max(found[-1].end, span.end))
        else:
            found.append(span)
    return tuple(found)


def after_skips(position: int, skipped: Sequence[Span]) -> int:
    """Return the position of the stream that a run is at.

    Args:
        position: How many windows the run has seen.
        skipped: The spans that it skips, as `merged` returns them.
    """
    for span in skipped:
        if position < span.first:
            break
        position += span.end - span.first
    return position
