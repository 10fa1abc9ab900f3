"""Skipping is arithmetic: what is seen is the stream without the spans, in order."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dpot_scale.data.stream.spans import Span, after_skips, merged

SPANS = st.lists(
    st.builds(lambda first, n: Span(first, first + n), st.integers(0, 60), st.integers(1, 20))
)


@given(SPANS)
def test_what_is_seen_is_the_stream_without_the_spans(spans: list[Span]) -> None:
    skipped = {position for span in spans for position in range(*span)}
    left = [position for position in range(200) if position not in skipped]
    assert [after_skips(n, merged(spans)) for n in range(len(left))] == left


@given(SPANS)
def test_merged_spans_neither_overlap_nor_touch(spans: list[Span]) -> None:
    found = merged(spans)
    assert all(one.end < other.first for one, other in pairwise(found))
    assert merged(found) == found
