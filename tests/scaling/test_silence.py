"""Workers that do not answer Ray, by a clock that the tests turn. With Ray itself: end_to_end."""

import math
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from ray._private.ray_constants import env_float
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus
from ray.train.v2.api.exceptions import WorkerGroupError

from dpot_scale.runs.signs import FOLDER, Sign, write_sign
from dpot_scale.scaling.silence import (
    ANSWER_LIMIT,
    LATE_SECONDS,
    Forgiveness,
    answer_seconds,
    silence,
)

LIMIT = 300.0
SILENT = WorkerHealthCheckTimeoutError("A worker health check has been hanging for 301 seconds.")


class Asked:
    """The process that asks two workers, the second of which does not answer any more."""

    def __init__(self) -> None:
        self.forgiveness, self.now = Forgiveness(LIMIT), 1e6

    def fails(self, after: float, error: Exception = SILENT) -> bool:
        """Turn the clock, and let Ray give the second one up; return whether that stands."""
        self.now += after
        workers = {0: WorkerStatus(running=True), 1: WorkerStatus(running=True, error=error)}
        status = WorkerGroupPollStatus(worker_statuses=workers)
        self.forgiveness.look(self.now, status)
        return bool(status.errors)

    def watches(self, seconds: float) -> None:
        """Ask for a while, in which nobody may be given up."""
        for _ in range(int(seconds / 2)):
            assert not self.fails(2.0), self.now


def test_a_worker_that_was_watched_for_the_whole_limit_is_given_up() -> None:
    asked = Asked()
    asked.watches(LIMIT)
    assert asked.fails(2.0)


def test_who_asks_and_was_stopped_gives_all_the_whole_limit_again() -> None:
    asked = Asked()
    asked.watches(LIMIT)
    assert not asked.fails(3600.0), "so long it has asked nobody"
    asked.watches(LIMIT - 2)
    assert asked.fails(2.0)


def test_looks_that_come_late_do_not_hide_silence() -> None:
    asked = Asked()
    for _ in range(int(LIMIT / LATE_SECONDS)):
        assert not asked.fails(LATE_SECONDS)
    assert asked.fails(LATE_SECONDS)


def test_what_else_a_worker_failed_of_stands() -> None:
    assert Asked().fails(0.0, RuntimeError("odd"))


@pytest.mark.parametrize(("hang", "seconds"), [(5.0, 360.0), (0.25, 75.0), (None, math.inf)])
def test_ray_is_told_how_long_a_worker_may_not_answer(
    hang: float | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each trial its own: they are in actors of their own."""
    monkeypatch.setenv(ANSWER_LIMIT, "7")
    context = create_autospec(TrainRunContext, instance=True)
    Forgiveness(answer_seconds(hang)).after_controller_start(context)
    assert env_float(ANSWER_LIMIT, 600.0) == seconds


def test_the_sentence_names_the_worker_by_its_sign_if_there_is_one(tmp_path: Path) -> None:
    error = WorkerGroupError("failed", {1: SILENT})
    what = " for 5 minutes (limits.hang) and 60 s more: it was stopped, or its machine or one call "
    assert silence(error, tmp_path, 0, 5.0) == f"hung: no answer of rank 1{what}hangs"
    (tmp_path / FOLDER).mkdir()
    write_sign(tmp_path, Sign(attempt=7, rank=1, place="host/pid/boot", pid=12, started="1"))
    named = f"hung: no answer of rank 1 on host (process 12){what}"
    assert (silence(error, tmp_path, 6, 5.0) or "").startswith(named)
    assert (silence(error, tmp_path, 7, 5.0) or "").startswith(f"hung: no answer of rank 1{what}")


def test_workers_that_ended_in_another_way_were_not_silent(tmp_path: Path) -> None:
    error = WorkerGroupError("failed", {0: RuntimeError("odd")})
    assert silence(error, tmp_path, 0, 5.0) is None
    assert silence(RuntimeError("odd"), tmp_path, 0, 5.0) is None
