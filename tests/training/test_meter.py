"""Means over steps, and a clock that leaves out what is no training."""

import math
import os
from types import SimpleNamespace

import psutil
import pytest
import torch

from dpot_scale.engine.runtime import World
from dpot_scale.engine.zero import Update
from dpot_scale.training.meter import Meter, device_peak, peak_memory_gib
from dpot_scale.training.slowest import FEWEST, Waits

ALONE = World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(
        "dpot_scale.training.meter.time", SimpleNamespace(perf_counter=made.perf_counter)
    )
    return made


def add(meter: Meter, loss: float, grad_norm: float, lr: float = 1e-3) -> None:
    norm = torch.tensor(grad_norm)
    meter.add(
        torch.tensor(loss, requires_grad=True), Update(norm, norm.isfinite()), windows=8, lr=lr
    )


def test_means_and_speed_of_an_interval(clock: Clock) -> None:
    waited = 3.0
    meter = Meter(ALONE, lambda: waited)
    add(meter, 1.0, 10.0)
    add(meter, 2.0, 30.0)
    clock.now += 4.0
    waited += 1.0
    found = meter.reduce(train_flops_per_window=1e12)
    assert found["train/loss"] == 1.5
    assert found["train/grad_norm"] == 20.0
    assert found["perf/windows_per_second"] == 4.0
    assert found["perf/step_seconds"] == 2.0
    assert found["perf/data_wait_fraction"] == 0.25
    assert found["perf/model_tflops_per_second"] == 4.0
    assert "perf/mfu" not in found, "the peak of a CPU is not known"


def test_one_rank_alone_is_not_the_slowest_of_any() -> None:
    waits = Waits()
    meter = Meter(ALONE, lambda: 0.0, waits)
    for _ in range(FEWEST):
        waits.note(False)
    add(meter, 1.0, 10.0)
    assert "time/slowest_rank" not in meter.reduce(train_flops_per_window=1e12)


def test_what_the_loss_leaves_out_is_counted_where_there_is_some() -> None:
    meter = Meter(ALONE, lambda: 0.0)
    add(meter, 1.0, 1.0)
    assert "train/zero_targets" not in meter.reduce(1.0)
    for left_out in (2.0, 3.0, 4.0):
        meter.leave_out(torch.tensor(left_out))
        meter.leave_out(torch.tensor(1.0))  # another micro-batch of the step
        add(meter, 1.0, 1.0)
    meter.undo(1)
    assert meter.reduce(1.0)["train/zero_targets"] == 3 + 4
    add(meter, 1.0, 1.0)
    assert "train/zero_targets" not in meter.reduce(1.0)


def test_each_interval_starts_anew(clock: Clock) -> None:
    meter = Meter(ALONE, lambda: 0.0)
    add(meter, 100.0, 100.0)
    clock.now += 50.0
    meter.reduce(1.0)
    add(meter, 1.0, 2.0)
    clock.now += 2.0
    found = meter.reduce(1.0)
    assert (found["train/loss"], found["train/grad_norm"]) == (1.0, 2.0)
    assert found["perf/step_seconds"] == 2.0


def test_skipped_steps_are_counted_and_left_out_of_means(clock: Clock) -> None:
    meter = Meter(ALONE, lambda: 0.0)
    add(meter, 1.0, 10.0)
    add(meter, 5.0, math.inf)
    add(meter, math.nan, math.nan)
    clock.now += 6.0
    found = meter.reduce(1.0)
    assert (found["train/loss"], found["train/grad_norm"]) == (1.0, 10.0)
    assert found["train/skipped_steps"] == 2
    assert (meter.skipped_in_a_row, meter.loss_is_finite) == (2, False)
    assert found["perf/step_seconds"] == 2.0, "they take time"
    add(meter, 5.0, math.inf)
    clock.now += 1.0
    found = meter.reduce(1.0)
    assert found.keys().isdisjoint({"train/loss", "train/grad_norm"})
    assert found["train/skipped_steps"] == 1
    assert (meter.skipped_in_a_row, meter.loss_is_finite) == (3, True)
    add(meter, 5.0, 1.0)
    clock.now += 1.0
    assert meter.reduce(1.0)["train/skipped_steps"] == 0
    assert meter.skipped_in_a_row == 0


def test_void_steps_are_forgotten(clock: Clock) -> None:
    meter = Meter(ALONE, lambda: 0.0)
    add(meter, 1.0, 10.0, lr=0.1)
    add(meter, math.nan, math.nan, lr=0.2)
    add(meter, math.nan, math.nan, lr=0.3)
    meter.undo(2)
    clock.now += 4.0
    found = meter.reduce(1.0)
    assert (found["train/loss"], found["train/lr"]) == (1.0, 0.1)
    assert (found["train/skipped_steps"], found["perf/step_seconds"]) == (0, 4.0)
    assert (meter.skipped_in_a_row, meter.loss_is_finite) == (0, True)
    add(meter, math.nan, math.nan)
    meter.undo(1)
    assert not meter.pending


def test_evaluations_do_not_count_as_training_time(clock: Clock) -> None:
    meter = Meter(ALONE, lambda: 0.0)
    add(meter, 1.0, 1.0)
    clock.now += 1.0
    with meter.paused():
        clock.now += 1000.0
    assert meter.reduce(1.0)["perf/step_seconds"] == 1.0


def test_mfu_is_of_all_ranks(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpot_scale.training.meter.device_peak", lambda _: 16e12)
    meter = Meter(ALONE, lambda: 0.0)
    add(meter, 1.0, 1.0)
    clock.now += 1.0
    assert meter.reduce(1e12)["perf/mfu"] == 0.5


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-40GB", 312e12), ("Unheard Of", None)],
)
def test_peaks_of_known_devices(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert device_peak(torch.device("cuda")) == peak


def test_peak_memory_is_at_least_what_is_resident_now() -> None:
    resident = psutil.Process(os.getpid()).memory_info().rss / 2**30
    assert 0.9 * resident <= peak_memory_gib(ALONE) < 1000
