"""Makes hostile input of good input: JSON values and bytes, changed in a few places."""

import copy
from typing import Any

from hypothesis import strategies as st

ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, 10**30, -(2**70)),
    *(0.0, -0.5, 1e-300, 1e308, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        "x",
        "0",
        "1e3",
        "nan",
        "..",
        "../../outside",
        "/etc/passwd",
        "a\x00b",
        "\ud800",
        "x" * 300,
    ),
    *([], {}, [[]], [None], [1, 2, 3], {"": None}, {"a": {"b": []}}, [[[[[[1]]]]]]),
]
Place = tuple[Any, ...]
TAIL = 512  # bytes at the end of a file


def places(value: object, path: Place = ()) -> list[Place]:
    """Where values lie in a JSON value, as keys from the top."""
    found = [path]
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value[:4]))
    else:
        inner = []
    for key, one in inner:
        found += places(one, (*path, key))
    return found


def at(value: Any, path: Place) -> Any:
    """The value at a place."""
    for key in path:
        value = value[key]
    return value


@st.composite
def mutated_json(draw: st.DrawFn, good: Any) -> Any:
    """A JSON value in which up to three values are odd, missing, or at another place."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        if path:
            mutate(draw, at(value, path[:-1]), path[-1], good)
        elif draw(st.integers(0, 9)) == 0:
            return copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
    return value


def mutate(draw: st.DrawFn, holder: Any, key: Any, good: Any) -> None:
    """Change the value under a key."""
    how = draw(st.sampled_from(["odd", "odd", "odd", "remove", "add", "swap"]))
    if how == "remove":
        del holder[key]
    elif how == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(["x", "format", "", "e"]))] = 1
    else:
        other = draw(st.sampled_from(ODD_VALUES if how == "odd" else places(good)))
        holder[key] = copy.deepcopy(other if how == "odd" else at(good, other))


@st.composite
def mutated_bytes(draw: st.DrawFn, good: bytes, head: int = 4096) -> bytes:
    """Bytes of which some are changed, mostly where headers are; or cut off.

    These are at the beginning, and at the end of a zip file.
    """
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        last = max(0, len(content) - 1)
        begin, end = (0, min(last, head - 1)), (max(0, last - TAIL), last)
        first = draw(st.integers(*draw(st.sampled_from([begin, begin, end, (0, last)]))))
        removed = draw(st.sampled_from([0, 1, 8, 60, len(content)]))
        added = draw(
            st.sampled_from([b"", b"\xff" * 8, b"\0" * 8, b"\x7f" * 8]) | st.binary(max_size=8)
        )
        content[first : first + removed] = added
    return bytes(content)
