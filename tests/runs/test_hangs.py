"""When an attempt is given up, by a clock that the tests turn: nobody waits here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dpot_scale.processes import this_place
from dpot_scale.runs.hangs import GONE_SECONDS, Hangs
from dpot_scale.runs.signs import Sign

LIMIT, EVERY, LONGEST_LOOK = 300.0, 5.0, 50.0
BEGUN = 1e6  # what a clock says first, is of no account
HOUR = 3600.0
Change = Callable[[float], dict[str, object]]  # of a sign, by the seconds since the begin

OWN = Sign(attempt=7, rank=0, place="first/pid/boot", pid=10, started="1", at="train_step (loop)")
OTHERS = [replace(OWN, rank=rank, place=f"host{rank}/pid/boot", pid=10 + rank) for rank in (1, 2)]


class Attempt:
    """Three ranks, of which the main one judges; the others are no processes."""

    def __init__(self, limit: float | None = LIMIT) -> None:
        others = {sign.rank: sign for sign in OTHERS}
        self.hangs = Hangs(others, limit, LONGEST_LOOK, Path("stacks.txt"), BEGUN)
        self.own, self.others, self.seconds = OWN, dict(others), 0.0

    def live(self, seconds: float, *, moving: set[int], silent: set[int] = frozenset()) -> None:
        """Let ranks show signs for a while, in which nobody may be given up."""
        for _ in range(int(seconds / EVERY)):
            assert self.look(EVERY, moving=moving, silent=silent) is None, self.seconds

    def look(self, after: float, *, moving: set[int], silent: set[int] = frozenset()) -> str | None:
        """Turn the clock, and judge once."""
        self.seconds += after
        now = BEGUN + self.seconds
        self.hangs.look(now, has_moved=0 in moving)
        for rank, sign in self.others.items():
            if rank not in silent:
                moves = sign.moves + (rank in moving)
                self.others[rank] = sign = replace(sign, beats=sign.beats + 1, moves=moves)
            self.hangs.hear(rank, sign, now)
        return self.hangs.verdict(self.own, now)


ALL = {0, 1, 2}


def test_ranks_that_beat_are_never_given_up() -> None:
    Attempt().live(24 * HOUR, moving=ALL)


def test_a_rank_that_stops_is_named_when_the_limit_is_over_and_not_a_look_before() -> None:
    attempt = Attempt()
    attempt.live(HOUR, moving=ALL)
    attempt.live(LIMIT - EVERY, moving={0, 1}, silent={2})
    verdict = attempt.look(EVERY, moving={0, 1}, silent={2})
    assert verdict is not None
    assert verdict.startswith(
        "hung: no sign of rank 2 on host2 (process 12) for 5 minutes (limits.hang): it was "
        "stopped, or its machine or disk hangs; the stacks are in stacks.txt; "
    )


def test_one_sign_just_in_time_counts_from_then_on() -> None:
    attempt = Attempt()
    for _ in range(3):
        attempt.live(LIMIT - EVERY, moving={0}, silent={1, 2})
        attempt.live(EVERY, moving={0})
    attempt.live(LIMIT - EVERY, moving={0}, silent={1})
    assert "no sign of rank 1 " in (attempt.look(EVERY, moving={0}, silent={1}) or "")


@pytest.mark.parametrize("compiling", [0, 1])
def test_a_compilation_that_takes_hours_goes_on_wherever_it_is(compiling: int) -> None:
    """No step ends, all others wait, and one rank goes from call to call."""
    attempt = Attempt()
    attempt.others = {rank: replace(one, waits=True) for rank, one in attempt.others.items()}
    attempt.live(5 * HOUR, moving={compiling})


def test_what_moves_once_in_a_while_goes_on() -> None:
    attempt = Attempt()
    for _ in range(10):
        attempt.live(LIMIT - EVERY, moving=set())
        attempt.live(EVERY, moving={2})


def test_what_a_rank_cannot_see_nobody_failed_to_do() -> None:
    attempt = Attempt()
    for _ in range(10):
        attempt.live(LIMIT - EVERY, moving={0}, silent={1, 2})
        attempt.hangs.forgive(BEGUN + attempt.seconds)


def test_a_rank_that_is_stuck_is_told_from_those_that_wait_for_it() -> None:
    attempt = Attempt()
    attempt.own = replace(OWN, waits=True)
    attempt.others[1] = replace(attempt.others[1], waits=True)
    attempt.others[2] = replace(attempt.others[2], at="read (shard)")
    attempt.live(LIMIT - EVERY, moving=set())
    verdict = attempt.look(EVERY, moving=set())
    assert verdict is not None
    assert verdict.startswith(
        "hung: rank 2 on host2 (process 12) did not move on for 5 minutes (limits.hang) while the "
        "others waited for it, in read (shard); "
    )


def test_all_ranks_may_wait_for_each_other() -> None:
    attempt = Attempt()
    attempt.own = replace(OWN, waits=True, at="all_reduce (torch)")
    attempt.others = {rank: replace(one, waits=True) for rank, one in attempt.others.items()}
    attempt.live(LIMIT - EVERY, moving=set())
    assert (attempt.look(EVERY, moving=set()) or "").startswith(
        "hung: for 5 minutes (limits.hang) all ranks waited for each other, in all_reduce (torch); "
    )


def test_only_the_main_rank_says_that_nobody_moves() -> None:
    attempt = Attempt()
    attempt.own = replace(OWN, rank=3)
    attempt.live(HOUR, moving=set())


def test_a_jump_of_the_clock_is_nobodys_silence() -> None:
    """As this process was stopped with the machine: then all have the whole limit again."""
    attempt = Attempt()
    attempt.live(LIMIT - EVERY, moving={0}, silent={2})
    assert attempt.look(10 * HOUR, moving=set(), silent=ALL) is None
    attempt.live(LIMIT - EVERY, moving=set(), silent={2})
    assert "no sign of rank 2 " in (attempt.look(EVERY, moving=set(), silent={2}) or "")


def test_looks_that_come_late_do_not_hide_a_hang() -> None:
    """A busy machine looks less often, and never so late that it would forgive."""
    attempt = Attempt()
    for _ in range(int(LIMIT / LONGEST_LOOK) - 1):
        assert attempt.look(LONGEST_LOOK, moving={0}, silent={1}) is None
    assert "no sign of rank 1 " in (attempt.look(LONGEST_LOOK, moving={0}, silent={1}) or "")


def test_a_clock_that_stands_still_gives_nobody_up() -> None:
    attempt = Attempt()
    attempt.live(LIMIT - EVERY, moving=set(), silent={1, 2})
    assert all(attempt.look(0.0, moving=set(), silent={1, 2}) is None for _ in range(100))


def test_a_rank_that_came_to_its_end_is_not_missed() -> None:
    attempt = Attempt()
    attempt.others[1] = replace(attempt.others[1], is_closed=True)
    attempt.live(EVERY, moving={0})
    attempt.live(HOUR, moving={0}, silent={1})


def test_a_process_that_is_gone_may_speak_first() -> None:
    """The limit is of no account, also where there is none."""
    for limit in (LIMIT, None):
        attempt = Attempt(limit)
        lost = replace(attempt.others[1], place=this_place(), started="0")  # a number used again
        attempt.others[1] = lost
        attempt.live(EVERY, moving=ALL)
        assert attempt.look(0.0, moving=ALL, silent={1}) is None
        assert attempt.look(GONE_SECONDS - 0.1, moving=ALL, silent={1}) is None
        verdict = attempt.look(0.1, moving=ALL, silent={1})
        assert (verdict or "").startswith(f"lost_peer: {lost.who} ended and the others wait for it")


def test_without_a_limit_nobody_is_given_up() -> None:
    Attempt(None).live(24 * HOUR, moving=set(), silent={1, 2})


def test_signs_of_an_earlier_attempt_are_none() -> None:
    attempt = Attempt()
    attempt.live(EVERY, moving=ALL)
    attempt.others[1] = replace(attempt.others[1], attempt=6)
    attempt.live(LIMIT - EVERY, moving={0})
    assert "no sign of rank 1 " in (attempt.look(EVERY, moving={0}) or "")
