"""What an attempt failed of, where a node may be gone. With Ray itself: tests/end_to_end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import WorkerGroupError

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.errors import ConfigError, LostPeerError, UserError
from dpot_scale.scaling import launcher as launcher_module
from dpot_scale.scaling.cluster import Cluster
from dpot_scale.scaling.endings import AttemptFailedError
from dpot_scale.scaling.fitting import Node
from dpot_scale.scaling.launcher import LOST, RayLauncher, on_workers
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.room import LOSS_SECONDS
from dpot_scale.scaling.silence import Forgiveness

NODES = frozenset({"a", "b"})
KILLED = WorkerHealthCheckFailedError(
    "rank 1 failed",
    RayActorError(error_msg="The actor is dead because its worker process has died."),
)
PEER = RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer")


@pytest.mark.parametrize(
    ("cause", "verdict", "is_gone", "patience", "reason"),
    [
        (PEER, None, True, LOSS_SECONDS, LOST),
        (PEER, None, False, LOSS_SECONDS, "a worker died: killed, out of memory, or crashed"),
        (KILLED, None, True, 0.0, LOST),
        (KILLED, None, False, 0.0, "a worker died: killed, out of memory, or crashed"),
        (KILLED, "lost_peer: rank 1 is gone", True, LOSS_SECONDS, LOST),
        (KILLED, "lost_peer: rank 1 is gone", False, LOSS_SECONDS, "rank 1 is gone"),
        (ConfigError("a mistake"), None, True, None, "a mistake"),
        (RuntimeError("odd"), None, True, None, "odd"),
    ],
)
def test_a_node_that_is_gone_is_no_failure_of_the_trial(
    cause: Exception,
    verdict: str | None,
    is_gone: bool,
    patience: float | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray is asked whether one is, and given time to find out, only where that may be."""
    asked: list[float] = []

    def lost_one(before: frozenset[str], *, patience: float) -> bool:
        assert before == NODES
        asked.append(patience)
        return is_gone

    monkeypatch.setattr(launcher_module, "lost_one", lost_one)
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    cluster = Cluster(resources=ResourcesConfig(gpus_per_worker=0), trials=1)
    launcher = RayLauncher(sweep, cluster)
    failed = launcher._failed(WorkerGroupError("workers failed", {1: cause}), verdict, NODES)
    assert failed.reason == reason
    assert failed.is_preemption is (reason == LOST)
    assert asked == ([] if patience is None else [patience])


def test_workers_of_a_trial_wait_for_each_other_as_long_as_its_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[TorchConfig] = []

    class Noted(TorchTrainer):
        def __init__(self, *args: Any, torch_config: TorchConfig, **more: Any) -> None:
            configs.append(torch_config)
            super().__init__(*args, torch_config=torch_config, **more)

        def fit(self) -> Any:
            return SimpleNamespace(return_value=1)

    launcher, sweep = connected(tmp_path, monkeypatch, Noted, "run.limits.collective=7.5")
    assert launcher.train(plan(sweep)[0], attempt=1, workers=2)
    assert [config.timeout_s for config in configs] == [450]


def connected(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trainer: type[TorchTrainer], *settings: str
) -> tuple[RayLauncher, SweepConfig]:
    """Return a launcher on a cluster that is not there, with a trainer that needs none."""
    monkeypatch.setattr(launcher_module, "TorchTrainer", trainer)
    monkeypatch.setattr(launcher_module, "living", lambda: NODES)
    sweep = load_sweep("quickstart", ["run.data.suite=null", *settings])
    sweep = resolve_sweep_paths(sweep, folder)
    cluster = Cluster(resources=ResourcesConfig(gpus_per_worker=0), trials=1)
    return RayLauncher(sweep, cluster), sweep


def test_a_trial_whose_workers_do_not_answer_hangs_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray says so after it was asked whether it had watched them all the time."""
    callbacks: list[object] = []

    class Silent(TorchTrainer):
        def fit(self) -> Any:
            callbacks.extend(self.run_config.callbacks or [])
            silent = WorkerHealthCheckTimeoutError("A worker health check has been hanging")
            raise WorkerGroupError("failed", {0: silent})

    launcher, sweep = connected(tmp_path, monkeypatch, Silent)
    with pytest.raises(AttemptFailedError, match=r"no answer of rank 0 for 5 minutes") as caught:
        launcher.train(plan(sweep)[0], attempt=1, workers=1)
    assert (caught.value.stop, caught.value.is_final, caught.value.pause) == ("hung", False, 0.0)
    assert [type(one) for one in callbacks] == [Forgiveness]


class Joined:
    """A cluster with so many GPUs, whose room and whose workers are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: float) -> None:
        self.error: Exception | None = None
        self.waits = False
        node = Node(cpus=64, gpus=gpus, gib=None, gpu_gib=None)

        @contextmanager
        def join(asked: ResourcesConfig) -> Iterator[Cluster]:
            on = int(gpus >= asked.least_workers)
            settled = asked.model_copy(update={"gpus_per_worker": on})
            yield Cluster(resources=settled, trials=1, nodes=[node])

        def room(
            _: ResourcesConfig,
            sizes: Sequence[int],
            give_up: Callable[[], bool],
            say: Callable[[str], None],
        ) -> int | None:
            while self.waits:
                if give_up():
                    return None
            return sizes[0]

        def trainer(*_: object, **__: object) -> object:
            return SimpleNamespace(fit=self.fit)

        monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")  # and put back
        monkeypatch.setattr(launcher_module, "join_cluster", join)
        monkeypatch.setattr(launcher_module, "wait_for_room", room)
        monkeypatch.setattr(launcher_module, "room_in_words", lambda _: "8 GPU (3 free)")
        monkeypatch.setattr(launcher_module, "trainer", trainer)

    def fit(self) -> object:
        if self.error is not None:
            raise self.error
        return SimpleNamespace(return_value="done")

    def run(self, folder: Path, workers: int = 8) -> object:
        resources = ResourcesConfig(workers=workers)
        return on_workers(print, {}, resources, folder, patience=timedelta(seconds=0.05))


def test_workers_without_room_are_not_waited_for_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Joined(monkeypatch, gpus=8)
    assert cluster.run(tmp_path / "ray") == "done"
    cluster.waits = True
    said = r"no room for 8 workers, 8 GPU \(3 free\); wait for what others use"
    with pytest.raises(UserError, match=said):
        cluster.run(tmp_path / "ray")


def test_workers_do_not_turn_to_cpus_where_there_are_some_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="8 workers need a GPU each, but the cluster has 4:"):
        Joined(monkeypatch, gpus=4).run(tmp_path / "ray")
    assert Joined(monkeypatch, gpus=0).run(tmp_path / "ray") == "done", "a cluster of CPUs"


def test_a_worker_says_which_other_one_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Joined(monkeypatch, gpus=8)
    cluster.error = WorkerGroupError("failed", {1: LostPeerError("rank 1 waited in vain")})
    with pytest.raises(UserError, match="the workers failed: rank 1 waited in vain"):
        cluster.run(tmp_path / "ray")
    cluster.error = WorkerGroupError("failed", {1: KILLED})
    with pytest.raises(UserError, match="the workers failed: a worker died"):
        cluster.run(tmp_path / "ray")
