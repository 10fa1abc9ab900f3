"""The rule by which other windows take the places of those that cannot be read."""

from itertools import islice

from dpot_scale.data.stream.mixture import BLOCK
from dpot_scale.data.stream.quarantine import stand_ins
from dpot_scale.data.stream.spans import Span


def test_the_windows_of_the_step_come_first() -> None:
    found = stand_ins(13, 4, [])
    assert list(islice(found, 6)) == [14, 15, 12, 16, 17, 18]


def test_a_step_of_one_window_takes_the_next() -> None:
    assert list(islice(stand_ins(7, 1, []), 3)) == [8, 9, 10]


def test_there_is_an_end() -> None:
    assert len(list(stand_ins(0, 12, []))) == 11 + BLOCK


def test_what_a_run_skips_stands_in_for_nothing() -> None:
    skipped = [Span(4, 8), Span(12, 16)]
    assert list(islice(stand_ins(3, 4, skipped), 8)) == [0, 1, 2, 8, 9, 10, 11, 16]
