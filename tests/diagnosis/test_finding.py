"""Findings of several nodes as one table."""

from dpot_scale.diagnosis.finding import Finding, merged, report


def test_what_all_nodes_found_alike_is_said_once() -> None:
    fine, full = Finding("disk", "ok", "9 GiB"), Finding("disk", "stops", "0 GiB", "make room")
    flock = Finding("flock", "ok", "works")
    assert merged([("a", [fine, flock]), ("b", [fine, flock])]) == [fine, flock]
    assert merged([("a", [fine, flock]), ("b", [full, flock])]) == [
        Finding("disk", "ok", "9 GiB", "", "a"),
        Finding("disk", "stops", "0 GiB", "make room", "b"),
        flock,
    ]


def test_the_table_says_what_to_do() -> None:
    stops = Finding("disk", "stops", "0 B", "make room", "b")
    assert report([Finding("flock", "ok", "works"), stops]).splitlines() == [
        "check      verdict  found",
        "flock      ok       works",
        "disk on b  stops    0 B",
        "",
        "What to do:",
        "- disk: make room",
        "",
        "1 of these would stop a run",
    ]
    assert report([Finding("flock", "ok", "works")]).endswith("\nnothing stops a run")
