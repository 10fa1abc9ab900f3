"""Speeds that were measured on this machine price the next plan."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.scaling.plan import TRIAL_OVERHEAD_SECONDS, plan
from dpot_scale.scaling.plan_text import plan_table
from dpot_scale.scaling.speeds import SPEEDS, Speed, known_speeds, remember


def speed(**changes: object) -> Speed:
    values: dict[str, object] = {
        "machine": socket.gethostname(),
        "device": "cpu",
        "family": "dpot",
        "dtype": "fp32",
        "workers": 2,
        "parameters": 250_000,
        "flops_per_second": 1e9,
    }
    return Speed.model_validate(values | changes)


def test_the_next_plan_is_as_fast_as_the_trials_before(tmp_path: Path) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    sweep.run.output.mkdir(parents=True)
    assumed = plan(sweep)
    assert "assuming 3.0e+10 FLOP/s per worker" in plan_table(sweep, assumed)
    for number in range(5):
        remember(sweep, speed(flops_per_second=(number + 1) * 1e9))
        remember(sweep, speed(flops_per_second=4e10, parameters=7_000_000))
    measured = plan(sweep)
    assert [trial.id for trial in measured] == [trial.id for trial in assumed]
    for index, flops_per_second in ((0, 3e9), (-1, 4e10)):
        before = assumed[index].seconds - TRIAL_OVERHEAD_SECONDS
        after = measured[index].seconds - TRIAL_OVERHEAD_SECONDS
        assert after == pytest.approx(before * 3e10 / flops_per_second)
    assert "as fast as trials have trained on this machine" in plan_table(sweep, measured)
    named = plan(sweep, "cpu")
    assert replace(named[0], seconds=0.0) == replace(assumed[0], seconds=0.0)
    assert named[0].seconds == pytest.approx(assumed[0].seconds), "a named device is not measured"


def test_the_plan_says_which_trials_were_never_measured(tmp_path: Path) -> None:
    design = "design=[{families: {of: [dpot, vit]}}]"
    sweep = resolve_sweep_paths(load_sweep("quickstart", [design]), tmp_path)
    sweep.run.output.mkdir(parents=True)
    remember(sweep, speed(family="fno"))
    assert "(assuming 3.0e+10 FLOP/s per worker)" in plan_table(sweep, plan(sweep))
    remember(sweep, speed())
    said = (
        "(as fast as trials of their family have trained on this machine, others assuming 3.0e+10"
    )
    assert said in plan_table(sweep, plan(sweep))
    remember(sweep, speed(family="vit"))
    assert "(as fast as trials have trained on this machine)" in plan_table(sweep, plan(sweep))


@pytest.mark.parametrize(
    "changes",
    [{"machine": "elsewhere"}, {"device": "gpu"}, {"workers": 4}],
)
def test_what_others_measured_does_not_count(changes: dict[str, object], tmp_path: Path) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    sweep.run.output.mkdir(parents=True)
    remember(sweep, speed(**changes))
    assert known_speeds(sweep.run.output, ResourcesConfig()) == []


def test_a_damaged_line_is_left_out(tmp_path: Path) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    sweep.run.output.mkdir(parents=True)
    remember(sweep, speed())
    path = sweep.run.output / SPEEDS
    path.write_text(path.read_text() + '{"format": 99}\n{"mach')
    remember(sweep, speed(parameters=7))
    found = known_speeds(sweep.run.output, ResourcesConfig())
    assert [one.parameters for one in found] == [250_000, 7]


def test_a_speed_of_before_muon_counted_is_measured_anew(tmp_path: Path) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    sweep.run.output.mkdir(parents=True)
    remember(sweep, speed(format=1))
    assert known_speeds(sweep.run.output, ResourcesConfig()) == []
