"""Lines of text for a terminal or a pipe."""

from dpot_scale.terminal import aligned


def test_facts_are_aligned() -> None:
    assert aligned([("a", "1"), ("long", "2")]) == "a     1\nlong  2"
