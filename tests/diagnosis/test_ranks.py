"""What two ranks find together, also with a fault."""

import errno
import os
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.diagnosis import ranks as module
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.diagnosis.needs import Needs
from dpot_scale.diagnosis.ranks import (
    clocks,
    host_network,
    locks_between_ranks,
    ranks_findings,
    read_speed,
    results_of_collectives,
    speed_of_collectives,
)
from dpot_scale.engine.collectives import gathered
from dpot_scale.engine.runtime import World

HERE = Path(__file__)


def all_is_well(world: World, folder: str) -> list[Finding]:
    config = load_run("quickstart", [f"output={folder}", f"data.root={folder}"])
    return list(ranks_findings(config, world, Needs(sending=1e3, reading=1e3)))


@pytest.mark.distributed
def test_two_ranks_that_are_well(ranks: Any, tmp_path: Path) -> None:
    findings = ranks.run(HERE, "all_is_well", str(tmp_path))
    verdicts = {one.check: one.verdict for one in findings}
    assert verdicts.pop("bandwidth") in {"ok", "note"}
    assert verdicts == dict.fromkeys(
        [
            "collectives",
            "host network",
            "clocks",
            "shared storage",
            "locks between ranks",
            "read speed",
        ],
        "ok",
    )
    found = {one.check: one.found for one in findings}
    assert "GB/s per rank; this config needs 1e-06" in found["bandwidth"]
    assert f"GB/s from {tmp_path} by all ranks together; this" in found["read speed"]
    assert list(tmp_path.iterdir()) == []


def too_slow(world: World, folder: str) -> list[Finding]:
    """A network and a storage slower than what a run needs, and a storage that fails one rank."""
    place = Path(folder)
    found = [speed_of_collectives(world, 1e15), read_speed(place, world, 1e15)]
    write = module._write

    def full(probe: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    module._write = full if world.rank == 1 else write
    try:
        return [*found, read_speed(place, world, 1.0)]
    finally:
        module._write = write


@pytest.mark.distributed
def test_two_ranks_whose_network_and_storage_are_slow(ranks: Any, tmp_path: Path) -> None:
    network, slow, full = ranks.run(HERE, "too_slow", str(tmp_path))
    assert (network.verdict, slow.verdict, full.verdict) == ("note", "note", "note")
    assert "this config needs 1e+06" in network.found
    assert "GLOO_SOCKET_IFNAME" in network.to_do
    assert "a disk of each node" in slow.to_do
    assert full.found == f"rank 1 cannot write and read in {tmp_path}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def reads(world: World, folder: str) -> list[str]:
    """The files that each rank reads, which no other one has read before."""
    read, names = Path.read_bytes, []

    def named(path: Path) -> bytes:
        names.append(path.name)
        return read(path)

    Path.read_bytes = named  # type: ignore[method-assign]
    try:
        read_speed(Path(folder), world)
    finally:
        Path.read_bytes = read  # type: ignore[method-assign]
    return [name for of_rank in gathered(names, world) for name in of_rank]


@pytest.mark.distributed
def test_no_rank_reads_what_another_one_has_read(ranks: Any, tmp_path: Path) -> None:
    names = ranks.run(HERE, "reads", str(tmp_path))
    assert len(names) == len(set(names)) == 2


def with_another_interface(world: World) -> list[Finding]:
    """Rank 1 names an interface that it has not; then the sum is lost on the way."""
    short = replace(world, patience=timedelta(seconds=20))
    if world.rank == 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "nowhere0"
    try:
        found = [host_network(short)]
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
    whole = module.dist.all_reduce
    module.dist.all_reduce = lambda *_, **__: None
    try:
        return [*found, host_network(short)]
    finally:
        module.dist.all_reduce = whole


@pytest.mark.distributed
def test_ranks_that_do_not_meet_on_the_host(ranks: Any) -> None:
    apart, wrong = ranks.run(HERE, "with_another_interface")
    assert (apart.check, apart.verdict) == ("host network", "stops")
    assert apart.found.startswith("2 of 2 ranks do not meet the others; rank 0: ")
    assert "; rank 1: ifa != nullptr. Unable to find address for: nowhere0" in apart.found
    assert "GLOO_SOCKET_IFNAME" in apart.to_do
    assert wrong.found == "2 of 2 ranks do not meet the others; rank 0: a wrong sum"


def with_faults(world: World, folder: str) -> list[Finding]:
    """A link that loses what rank 1 gets, a clock that is wrong, locks that nobody else sees."""
    time_now, is_held = module.time.time, module.is_held
    whole = {name: getattr(module.dist, name) for name in ("all_reduce", "reduce_scatter")}

    def lossy(name: str, tensor: Any, *words: Any, **options: Any) -> None:
        whole[name](tensor, *words, **options)
        if world.rank == 1:
            tensor[7] = 0

    found = []
    for name in whole:
        setattr(module.dist, name, partial(lossy, name))
    try:
        found.append(results_of_collectives(world))
    finally:
        for name, collective in whole.items():
            setattr(module.dist, name, collective)
    module.time.time = lambda: time_now() + 1000 * world.rank
    module.is_held = lambda _: False
    try:
        found += [clocks(world), locks_between_ranks(Path(folder), world)]
    finally:
        module.time.time, module.is_held = time_now, is_held
    return found


@pytest.mark.distributed
def test_two_ranks_with_faults(ranks: Any, tmp_path: Path) -> None:
    collectives, clock, lock = ranks.run(HERE, "with_faults", str(tmp_path))
    assert collectives.verdict == "stops"
    assert collectives.found == "wrong: all_reduce on ranks [1], reduce_scatter on ranks [1]"
    assert clock.verdict == "stops"
    assert (lock.verdict, lock.found) == ("note", "each node has locks of its own")
