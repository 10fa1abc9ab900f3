"""A rank that is stopped or stuck is found, named and ended; one that is slow is not."""

import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import psutil
import pytest

from dpot_scale.engine.runtime import start_world
from dpot_scale.processes import start_time, this_place
from dpot_scale.runs.signs import (
    FOLDER,
    Sign,
    given_up,
    hear_sign,
    newest_attempt,
    next_attempt,
    read_sign,
    write_sign,
)
from dpot_scale.runs.stacks import join_stacks, stacks_file
from dpot_scale.training.launchers import Launchers
from dpot_scale.training.meter import _peak_resident_bytes
from dpot_scale.training.nodes import Nodes
from tests.conftest import free_port, no_more_open_files

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

LIMIT = 0.1  # minutes


class Pair:
    """Two ranks of a run."""

    def __init__(
        self, context: ForkServerContext, folder: Path, case: str, minutes: float, patience: float
    ) -> None:
        self.folder = folder
        arguments = (free_port(), case, minutes, patience)
        self.ranks = [
            context.Process(target=pulse_ranks_run, args=(folder, rank, *arguments))
            for rank in range(2)
        ]
        for rank in self.ranks:
            rank.start()

    def wait_until_ready(self) -> None:
        """Wait until both have met; leave it to the test's timeout to give up."""
        while not all((self.folder / f"{rank}.ready").exists() for rank in range(2)):
            assert all(rank.is_alive() for rank in self.ranks), self.said()
            time.sleep(0.05)

    def signal(self, rank: int, number: signal.Signals) -> None:
        pid = self.ranks[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def codes(self) -> list[int | None]:
        """How both have ended."""
        for rank in self.ranks:
            rank.join(120)
        return [rank.exitcode for rank in self.ranks]

    def said(self) -> str:
        """All errors of both."""
        return "".join((self.folder / f"{rank}.err").read_text() for rank in range(2))

    def stacks(self) -> str:
        (file,) = self.folder.glob("stacks_*.txt")
        return file.read_text()


def pulse_ranks_run(*arguments: Any) -> None:
    """Be a rank; the tests themselves need no torch."""
    from tests.runs.pulse_ranks import run

    run(*arguments)


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Make processes from one that has imported torch, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.pulse_ranks"])
    return context


@pytest.fixture
def pair(context: ForkServerContext, tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def start(case: str, minutes: float = LIMIT, patience: float = 300) -> Pair:
        pairs.append(Pair(context, tmp_path, case, minutes, patience))
        pairs[-1].wait_until_ready()
        return pairs[-1]

    yield start
    for one in pairs:
        for rank in one.ranks:
            rank.kill()
            rank.join()


@pytest.mark.parametrize("stopped", [1, 0])
def test_a_stopped_rank_is_named_and_does_not_train_on(
    stopped: int, pair: Callable[..., Pair], tmp_path: Path
) -> None:
    other = 1 - stopped
    ranks = pair("sleeps")
    ranks.signal(stopped, signal.SIGSTOP)
    codes = ranks.codes()
    assert codes[other] == 2, ranks.said()
    assert codes[stopped] == -signal.SIGKILL, "else it would go on when it is continued"
    (line,) = ranks.said().splitlines()
    assert line.startswith(f"error: no sign of rank {stopped} on ")
    assert "for 0.1 minutes (limits.hang): it was stopped, or its machine or disk hangs" in line
    assert str(next(tmp_path.glob("stacks_*.txt"))) in line
    stacks = ranks.stacks()
    assert f"rank {other} on " in stacks
    assert "Thread pulse (most" in stacks
    assert "it wrote none; last seen: " in stacks
    verdict = given_up(tmp_path, 0)
    assert verdict is not None
    assert verdict.startswith("hung: no sign of rank")
    assert given_up(tmp_path, newest_attempt(tmp_path)) is None


def test_a_rank_ends_also_where_nothing_can_be_said(pair: Callable[..., Pair]) -> None:
    ranks = pair("sleeps, and nothing can be said")
    ranks.signal(1, signal.SIGSTOP)
    assert ranks.codes() == [2, -signal.SIGKILL]


def test_a_rank_that_was_replaced_says_so_and_ends(
    pair: Callable[..., Pair], tmp_path: Path
) -> None:
    """The run was started again, and this rank is of the attempt before."""
    ranks = pair("sleeps")
    ranks.signal(0, signal.SIGSTOP)  # else it would write over the sign
    write_sign(tmp_path, sign(attempt=newest_attempt(tmp_path) + 1))
    ranks.ranks[1].join(120)
    assert ranks.ranks[1].exitcode == 2
    (line,) = ranks.said().splitlines()
    assert line.startswith("error: the run was started again without rank 1 on ")


def test_an_attempt_is_later_than_those_before_by_any_clock(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    tomorrow = time.time_ns() + 86400 * 10**9
    write_sign(tmp_path, sign(attempt=tomorrow, rank=3))
    assert next_attempt(tmp_path) == tomorrow + 1


def test_a_rank_that_is_stuck_is_told_from_those_that_wait_for_it(
    pair: Callable[..., Pair],
) -> None:
    ranks = pair("reads")
    assert ranks.codes() == [2, 2]
    (line,) = ranks.said().splitlines()
    assert "rank 1 on " in line
    assert "did not move on for 0.1 minutes (limits.hang) while the others waited for it" in line
    assert "in _train (" in line
    assert ranks.stacks().count("Thread pulse (most") == 2
    assert "all_reduce" in ranks.stacks()


def test_what_is_slow_goes_on(pair: Callable[..., Pair], tmp_path: Path) -> None:
    ranks = pair("is slow")
    assert ranks.codes() == [0, 0], ranks.said()
    assert ranks.said() == ""
    signs = [read_sign(tmp_path, rank) for rank in range(2)]
    assert all(sign is not None and sign.is_closed for sign in signs)
    assert list(tmp_path.glob("stacks_*")) == []


@pytest.mark.parametrize("case", ["ends", "sleeps"])
def test_a_lost_peer_is_one_sentence_long_before_the_limit(
    case: str, pair: Callable[..., Pair]
) -> None:
    ranks = pair(case, minutes=30)
    if case == "sleeps":
        ranks.signal(1, signal.SIGKILL)
    assert ranks.codes() == [2, 3 if case == "ends" else -signal.SIGKILL]
    (line,) = ranks.said().splitlines()
    assert line.startswith("error: rank 0 on ")
    assert "lost the connection to another rank, which ended, or its machine or network" in line
    assert "start the run again to continue from its last checkpoint" in line


def test_a_rank_is_missed_where_no_collective_call_says_so(
    pair: Callable[..., Pair], tmp_path: Path
) -> None:
    ranks = pair("ends while nobody asks", minutes=1)
    assert ranks.codes() == [2, 3]
    (line,) = ranks.said().splitlines()
    assert line.startswith("error: rank 1 on ")
    assert "ended and the others wait for it; start the run again to continue" in line
    verdict = given_up(tmp_path, 0)
    assert verdict is not None
    assert verdict.startswith("lost_peer: rank 1")


def test_a_rank_that_is_asked_to_end_where_no_steps_are_made_says_so_and_so_does_its_peer(
    pair: Callable[..., Pair], tmp_path: Path
) -> None:
    """As one whose launcher is stopped while it makes its engine."""
    ranks = pair("is asked", minutes=30)
    for _ in range(2):  # by the scheduler, and by the launcher
        ranks.signal(0, signal.SIGTERM)
    assert ranks.codes() == [130, 2]
    assert (tmp_path / "0.err").read_text() == "rank 0 was stopped\n"
    (line,) = (tmp_path / "1.err").read_text().splitlines()
    assert line.startswith("error: rank 1 on ")
    assert "lost the connection to another rank, which ended" in line


def test_a_peer_is_waited_for_as_long_as_the_limit_says(pair: Callable[..., Pair]) -> None:
    ranks = pair("sleeps", minutes=30, patience=3)
    ranks.ranks[0].join(120)
    assert ranks.ranks[0].exitcode == 2
    (line,) = ranks.said().splitlines()
    assert "waited 0.05 minutes (limits.collective) in vain for another rank (Timed out" in line


def sign(**changes: object) -> Sign:
    me = psutil.Process()
    found: dict[str, object] = {"attempt": 7, "rank": 0, "place": "here/pid", "pid": me.pid}
    return Sign(**(found | {"started": "1"} | changes))  # type: ignore[arg-type]


def test_a_sign_is_of_one_length_however_long_its_words_are(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for words in ("", "x" * 300):
        write_sign(tmp_path, sign(at=words, verdict=words * 4))
        path = tmp_path / FOLDER / "rank_0"
        assert path.stat().st_size == 4096
        assert json.loads(path.read_bytes())["at"] == words
        assert read_sign(tmp_path, 0) == sign(at=words, verdict=words * 4)


def test_words_in_letters_of_many_bytes_are_cut(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    write_sign(tmp_path, sign(at="\N{FIRE}" * 300, verdict="\N{FIRE}" * 1500))
    assert read_sign(tmp_path, 0) == sign(verdict="\N{FIRE}" * 250)


def test_a_path_that_is_not_utf8_is_said_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"r\xffn")
    (directory / FOLDER).mkdir(parents=True)
    verdict = f"hung: the stacks are in {stacks_file(directory, 7)}"
    write_sign(directory, sign(verdict=verdict))
    assert read_sign(directory, 0) == sign(verdict=verdict)
    code = b'File "r\xffn/loop.py", line 7 in fit'
    (directory / FOLDER / "stacks_7_0").write_bytes(code)
    join_stacks(directory, [sign(attempt=7)], verdict)
    said = stacks_file(directory, 7).read_bytes()
    assert os.fsencode(verdict) in said
    assert code in said


def test_a_sign_may_be_written_by_whom_the_umask_allows(tmp_path: Path) -> None:
    """As the lock and all else of a run: a colleague may start it again."""
    (tmp_path / FOLDER).mkdir()
    before = os.umask(0o002)
    try:
        write_sign(tmp_path, sign())
    finally:
        os.umask(before)
    assert (tmp_path / FOLDER / "rank_0").stat().st_mode & 0o777 == 0o664


def test_a_sign_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    assert read_sign(tmp_path, 0) is None
    (tmp_path / FOLDER / "rank_0").write_bytes(b'{"attempt": 7')
    assert read_sign(tmp_path, 0) is None
    (tmp_path / FOLDER / "rank_0").write_bytes(b'{"attempt": 7, "colour": "red"}')
    assert read_sign(tmp_path, 0) is None
    assert newest_attempt(tmp_path) == 0


def test_of_too_many_open_files_nothing_is_known_of_others(tmp_path: Path) -> None:
    """A rank that cannot look must not take the others for ended, nor itself end."""
    (tmp_path / FOLDER).mkdir()
    mine = sign(place=this_place(), pid=os.getpid(), started=start_time("self"))
    write_sign(tmp_path, mine)
    launchers = Launchers()
    launchers._processes = [psutil.Process()]
    nodes = Nodes(start_world())
    with no_more_open_files():
        for known in (lambda: hear_sign(tmp_path, 0), lambda: mine.is_gone, lambda: mine.is_here):
            with pytest.raises(OSError, match="Too many open files"):
                known()
        assert not launchers.are_gone()
        lacks = nodes.share()
        assert math.isnan(_peak_resident_bytes())
        assert read_sign(tmp_path, 0) is None
    assert hear_sign(tmp_path, 0) == read_sign(tmp_path, 0) == mine
    assert lacks.isnan().all()


def test_a_process_with_the_number_of_an_earlier_one_is_another(tmp_path: Path) -> None:
    mine = sign(place=this_place(), started=start_time("self"))
    assert (mine.is_here, mine.is_gone) == (True, False)
    earlier = sign(place=this_place(), started="1")
    assert (earlier.is_here, earlier.is_gone) == (False, True)
    elsewhere = sign(place="another/pid", started="1")
    assert (elsewhere.is_here, elsewhere.is_gone) == (False, False)
