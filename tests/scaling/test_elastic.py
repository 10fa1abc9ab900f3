"""Which numbers of workers a trial may have, and when one gets more."""

from pathlib import Path

import pytest

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling import elastic
from dpot_scale.scaling.elastic import LOOK_SECONDS, STEADY_SECONDS, Growth, sizes
from dpot_scale.scaling.plan import TRIAL_OVERHEAD_SECONDS, Trial, plan


@pytest.mark.parametrize(
    ("workers", "batch", "expected"),
    [
        (2, {"global_batch": 8, "micro_batch": 2}, (2,)),
        ((1, 4), {"global_batch": 8, "micro_batch": 2}, (4, 2, 1)),
        ((1, 4), {"global_batch": 8, "micro_batch": "auto"}, (4, 2, 1)),
        ((1, 6), {"global_batch": 12, "micro_batch": 1}, (6, 4, 3, 2, 1)),
        ((2, 6), {"global_batch": 24, "micro_batch": 4}, (6, 3, 2)),
    ],
)
def test_a_number_that_the_batch_does_not_divide_among_is_left_out(
    workers: int | tuple[int, int], batch: dict[str, object], expected: tuple[int, ...]
) -> None:
    resources = ResourcesConfig(workers=workers)
    assert sizes(resources, BatchConfig.model_validate(batch)) == expected


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ("[2,1]", r"resources\.workers: \[2, 1\] is no number of workers: give one, or \[least"),
        ("[2]", r"resources\.workers: \[2\] is no number"),
        ("[0,2]", r"resources\.workers: \[0, 2\] is no number"),
        ("[1,true]", r"resources\.workers: \[1, True\] is no number"),
        ("[1,2,3]", r"resources\.workers: \[1, 2, 3\] is no number"),
        ("[1,2.5]", r"resources\.workers: \[1, 2.5\] is no number"),
        ("many", "resources.workers=many: must be a whole number or a list, as"),
    ],
)
def test_what_is_no_range_is_one_sentence(workers: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        load_sweep("quickstart", [f"resources.workers={workers}"])
    assert "\n" not in str(refused.value)


def test_a_range_of_one_number_is_that_number() -> None:
    assert ResourcesConfig(workers=(2, 2)) == ResourcesConfig(workers=2)


class Cluster:
    """A cluster with free workers, and the trials that were asked to begin again."""

    def __init__(self) -> None:
        self.now, self.free, self.steps = 0.0, 0, 0
        self.left = {"default": 3600.0}
        self.asked: list[str] = []

    def monotonic(self) -> float:
        return self.now

    def look(self, growth: Growth, *running: Trial, after: float = LOOK_SECONDS) -> list[str]:
        """Look after so many seconds; return who was asked."""
        self.now += after
        self.asked = []
        growth.look(running, self, lambda trial: self.asked.append(trial.id))
        return self.asked

    def train(self, growth: Growth, *running: Trial) -> None:
        """Let trials make steps for long enough."""
        self.look(growth, *running)
        self.steps += 1
        self.look(growth, *running)
        self.now += STEADY_SECONDS

    def step(self, _: Trial) -> int | None:
        return self.steps

    def seconds_left(self, trial: Trial) -> float | None:
        return self.left.get(trial.id, self.left["default"])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(elastic, "time", cluster)
    return cluster


@pytest.fixture
def growth(cluster: Cluster) -> Growth:
    return Growth(ResourcesConfig(workers=(1, 4), gpus_per_worker=0), lambda: cluster.free)


@pytest.fixture
def trials(tmp_path: Path) -> tuple[Trial, ...]:
    settings = ["run.batch={global_batch: 8, micro_batch: 2}", "run.data.suite=null"]
    return plan(resolve_sweep_paths(load_sweep("quickstart", settings), tmp_path))


def test_a_trial_begins_again_with_the_most_that_there_is_room_for(
    cluster: Cluster, growth: Growth, trials: tuple[Trial, ...]
) -> None:
    trial = trials[0]
    growth.begins(trial, 1)
    cluster.train(growth, trial)
    assert cluster.look(growth, trial) == []
    cluster.free = 2  # 3 in all, among which the batch does not divide
    assert cluster.look(growth, trial) == [], "it may be gone at the next look"
    assert cluster.look(growth, trial) == [trial.id]
    assert cluster.look(growth, trial) == [], "it was asked"
    assert growth.ends(trial) == 2
    growth.begins(trial, 2)
    assert growth.ends(trial) == 0


def test_room_that_goes_again_is_no_room(
    cluster: Cluster, growth: Growth, trials: tuple[Trial, ...]
) -> None:
    growth.begins(trials[0], 1)
    cluster.train(growth, trials[0])
    for free in (1, 0, 1, 0):
        cluster.free = free
        assert cluster.look(growth, trials[0]) == []


def test_nobody_is_asked_too_soon_or_too_late(
    cluster: Cluster, growth: Growth, trials: tuple[Trial, ...]
) -> None:
    """The workers have to be started again, which takes a while."""
    new, ending, full = trials[:3]
    cluster.free = 8
    growth.begins(ending, 1)
    growth.begins(full, 4)
    cluster.left[ending.id] = TRIAL_OVERHEAD_SECONDS
    cluster.train(growth, ending, full)
    growth.begins(new, 1)
    cluster.now += STEADY_SECONDS
    for _ in range(3):
        assert cluster.look(growth, new, ending, full) == [], "its own workers are not there yet"
    cluster.train(growth, new, ending, full)
    assert cluster.look(growth, new, ending, full) == []
    assert cluster.look(growth, new, ending, full, after=LOOK_SECONDS / 2) == [], "no look yet"
    assert cluster.look(growth, new, ending, full) == [new.id]


def test_who_waits_for_room_comes_first(
    cluster: Cluster, growth: Growth, trials: tuple[Trial, ...]
) -> None:
    small, waits, other = trials[:3]
    cluster.free = 3
    growth.begins(small, 1)
    growth.begins(other, 1)
    growth.begins(waits, 4)
    cluster.train(growth, small, waits, other)
    growth.ends(waits)
    for _ in range(3):
        assert cluster.look(growth, small, waits, other) == []
    growth.begins(waits, 4)
    assert cluster.look(growth, small, waits, other) == []
    assert cluster.look(growth, small, waits, other) == [small.id], "one at a time"
    assert cluster.look(growth, small, waits, other) == []


def test_a_fixed_number_never_changes(cluster: Cluster, trials: tuple[Trial, ...]) -> None:
    growth = Growth(ResourcesConfig(workers=2), lambda: 8)
    growth.begins(trials[0], 2)
    cluster.train(growth, trials[0])
    for _ in range(3):
        assert cluster.look(growth, trials[0]) == []
    assert growth.share(trials[0]) == ""
