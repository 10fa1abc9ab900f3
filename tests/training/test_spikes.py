"""What is out of proportion, and that the past of a resumed run is that of its spool."""

import json
import math
from pathlib import Path

import pytest

from dpot_scale.training.meter import Measured
from dpot_scale.training.spikes import RECORDS, SETTLED_AFTER, Spike, Spikes, recorded_steps

CALM = [Measured(0.5, 2.0)] * 10


def test_a_step_out_of_proportion_is_a_spike() -> None:
    spikes = Spikes(30.0, CALM)
    steps = [Measured(14.9, 2.0), Measured(0.5, 59.0), Measured(0.5, 2e6), Measured(1e9, 1e9)]
    assert spikes.find(100, steps[:2]) is None
    found = spikes.find(102, [Measured(0.5, 2.0), *steps[2:]])
    assert found == Spike(1, "gradient norm", 2e6, 59.0)
    found = Spikes(30.0, CALM).find(100, [Measured(15.1, 2.0)])
    assert found == Spike(0, "loss", 15.1, 0.5)


def test_a_spike_is_not_what_later_steps_are_compared_with() -> None:
    spikes = Spikes(30.0, CALM)
    for _ in range(3):
        assert spikes.find(100, [Measured(0.5, 1e6)]) is not None


def test_the_first_steps_and_the_skipped_ones_may_do_anything() -> None:
    steps = [Measured(1.0, 1.0), Measured(1000.0, 1.0)]
    assert Spikes(30.0).find(0, steps) is None
    assert Spikes(30.0).find(SETTLED_AFTER - 2, steps) is None
    assert Spikes(30.0).find(SETTLED_AFTER - 1, steps) is not None
    broken = [Measured(math.nan, math.inf), Measured(0.5, math.inf)]
    assert Spikes(30.0, CALM).find(100, broken) is None


def test_none_is_found_where_none_is_sought() -> None:
    assert Spikes(None, CALM).find(100, [Measured(1e30, 1e30)]) is None


def test_old_steps_are_forgotten() -> None:
    spikes = Spikes(30.0, [Measured(0.5, 1000.0)])
    assert spikes.find(100, [Measured(0.5, 2.0)] * 199 + [Measured(0.5, 100.0)]) is None
    assert spikes.find(300, [Measured(0.5, 3001.0)]) is not None


@pytest.mark.parametrize("records", [0, 3, RECORDS + 5])
def test_the_past_of_a_resumed_run_is_in_its_spool(records: int, tmp_path: Path) -> None:
    spool = tmp_path / "metrics.jsonl"
    values = [{"train/loss": 1 / n, "train/grad_norm": float(n)} for n in range(1, records + 1)]
    lines = [
        {"step": 0, "time": 0.0, "model/params": 7.0},
        *({"step": 10 * n, "time": 0.0, **one} for n, one in enumerate(values, start=1)),
        # A spike that a rollback undid, and the first step after it.
        {"step": 10 * records + 7, "time": 0.0, "train/loss": 99.0, "train/grad_norm": 99.0},
        {"step": 10 * records + 5, "time": 0.0, "train/loss": 0.1, "train/grad_norm": 0.2},
    ]
    assert recorded_steps(spool, 1000) == []
    spool.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    before = [Measured(*one.values()) for one in values]
    assert recorded_steps(spool, 10 * records) == before[-RECORDS:]
    assert recorded_steps(spool, 10**6) == [*before, Measured(0.1, 0.2)][-RECORDS:]
