"""The machines of a run are sampled now and then, and each counts once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from dpot_scale.engine.collectives import sum_over_ranks
from dpot_scale.engine.runtime import World
from dpot_scale.training import nodes
from dpot_scale.training.nodes import SAMPLE_SECONDS, Nodes

CPU = torch.device("cpu")
ALONE = World(rank=0, local_rank=0, world_size=1, device=CPU)
GIB = 2**30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(nodes, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def moved(monkeypatch: pytest.MonkeyPatch, network: int, disk: int) -> None:
    counters = {"eth0": (network, 0), "lo": (10**12, 0)}
    found = {k: SimpleNamespace(bytes_sent=a, bytes_recv=b) for k, (a, b) in counters.items()}
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: found)
    disks = SimpleNamespace(read_bytes=disk, write_bytes=0)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: disks)


def sampled(one: Nodes) -> dict[str, float]:
    return one.metrics(one.share().tolist())


def test_a_sample_holds_what_happened_since_the_last_one(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(total=8 * GIB, available=6 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 50.0)
    moved(monkeypatch, 0, 0)
    machine = Nodes(ALONE)
    clock.now += 4.0
    moved(monkeypatch, 8 * 2**20, 2**20)
    assert sampled(machine) == {
        "system/node_0/cpu_percent": 50.0,
        "system/node_0/memory_gib": 2.0,
        "system/node_0/network_mib_per_second": 2.0,
        "system/node_0/disk_mib_per_second": 0.25,
    }
    clock.now += SAMPLE_SECONDS - 1
    assert sampled(machine) == {}, "too soon"
    clock.now += 1
    assert sampled(machine)["system/node_0/network_mib_per_second"] == 0


def test_a_container_that_tells_nothing_of_disks_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    assert sampled(Nodes(ALONE))["system/node_0/disk_mib_per_second"] == 0


def samples_of_two_machines(world: World) -> list[dict[str, float]]:
    """Two ranks, once on one machine and once on two."""
    found = []
    for local_rank in (world.rank, 0):
        place = World(
            rank=world.rank, local_rank=local_rank, world_size=world.world_size, device=CPU
        )
        machines = Nodes(place)
        found.append(machines.metrics(sum_over_ranks(machines.share(), world).tolist()))
    return found


def test_each_machine_is_measured_once(ranks: Any) -> None:
    together, apart = ranks.run(Path(__file__), "samples_of_two_machines")
    total = psutil.virtual_memory().total / GIB
    assert 0 < together["system/node_0/memory_gib"] < total
    assert len(together) == 4
    assert len(apart) == 8
    assert 0 < apart["system/node_1/memory_gib"] < total
