"""What two ranks find together, also with a fault."""

from pathlib import Path
from typing import Any

import pytest

from dpot_scale.diagnosis import ranks as module
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.diagnosis.ranks import (
    clocks,
    locks_between_ranks,
    ranks_findings,
    results_of_collectives,
)
from dpot_scale.engine.runtime import World

HERE = Path(__file__)


def all_is_well(world: World, folder: str) -> list[Finding]:
    return list(ranks_findings(Path(folder), world))


@pytest.mark.distributed
def test_two_ranks_that_are_well(ranks: Any, tmp_path: Path) -> None:
    findings = ranks.run(HERE, "all_is_well", str(tmp_path))
    verdicts = {one.check: one.verdict for one in findings}
    assert verdicts.pop("bandwidth") in {"ok", "note"}
    assert verdicts == dict.fromkeys(
        ["collectives", "clocks", "shared storage", "locks between ranks", "read speed"], "ok"
    )
    assert "GB/s per rank" in next(one.found for one in findings if one.check == "bandwidth")
    assert list(tmp_path.iterdir()) == []


def with_faults(world: World, folder: str) -> list[Finding]:
    """A link that loses what rank 1 gets, a clock that is wrong, locks that nobody else sees."""
    whole, time_now, is_held = module.dist.all_reduce, module.time.time, module.is_held

    def lossy(tensor: Any, *words: Any, **options: Any) -> None:
        whole(tensor, *words, **options)
        if world.rank == 1:
            tensor[7] = 0

    found = []
    module.dist.all_reduce = lossy
    try:
        found.append(results_of_collectives(world))
    finally:
        module.dist.all_reduce = whole
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
    assert (collectives.verdict, collectives.found) == ("stops", "wrong: all_reduce on ranks [1]")
    assert clock.verdict == "stops"
    assert (lock.verdict, lock.found) == ("note", "each node has locks of its own")
