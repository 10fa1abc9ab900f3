"""How long a plan takes when trials are packed as the controller packs them."""

from dataclasses import replace

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.scaling.makespan import makespan
from dpot_scale.scaling.plan import Trial, plan


def trials_of(*seconds: float) -> list[Trial]:
    settings = [f"design=[{{seeds: {list(range(len(seconds)))}}}]", "ladder=null"]
    planned = plan(load_sweep("quickstart", settings))
    return [replace(trial, seconds=s) for trial, s in zip(planned, seconds, strict=True)]


@pytest.mark.parametrize(("at_a_time", "expected"), [(1, 18), (2, 9), (3, 6), (4, 6), (100, 6)])
def test_the_largest_first(at_a_time: int, expected: float) -> None:
    assert makespan(trials_of(1, 2, 3, 6, 2, 4), at_a_time) == expected


def test_a_branch_begins_when_its_trunk_is_so_far() -> None:
    design = "design=[{ladder: {a: {width: 32}}}, {cooldown: {trunk: 800, at: [400]}}]"
    branch, trunk = plan(load_sweep("quickstart", [design]))
    assert branch.after is not None
    share = branch.after.step / trunk.run.steps
    trunk, branch = replace(trunk, seconds=100.0), replace(branch, seconds=30.0)
    assert makespan([branch, trunk], 1) == 130
    assert makespan([branch, trunk], 2) == pytest.approx(max(100, 100 * share + 30))
    late = replace(branch, seconds=90.0)
    assert makespan([late, trunk], 2) == pytest.approx(100 * share + 90)
