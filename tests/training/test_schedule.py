"""Schedules: equality with torch's, and the ends of ours."""

import math

import pytest
import torch

from dpot_scale.config.load import load_run
from dpot_scale.config.optim import Length, OptimConfig
from dpot_scale.training.schedule import Schedule


@pytest.mark.parametrize("cycle_momentum", [True, False])
@pytest.mark.parametrize("total_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.3])
def test_one_cycle_is_torch_one_cycle(cycle_momentum: bool, total_steps: int, share: float) -> None:
    optim = OptimConfig(
        lr=2e-3,
        betas=(0.9, 0.97),
        schedule="one_cycle",
        warmup=Length(share=share),
        initial_lr_ratio=1e-2,
        final_lr_ratio=1e-5,
        cycle_momentum=cycle_momentum,
    )
    adam = torch.optim.Adam([torch.zeros(1)], lr=optim.lr, betas=optim.betas)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adam,
        max_lr=optim.lr,
        total_steps=total_steps,
        pct_start=share,
        div_factor=1 / optim.initial_lr_ratio,
        final_div_factor=optim.initial_lr_ratio / optim.final_lr_ratio,
        cycle_momentum=cycle_momentum,
    )
    for step in range(total_steps):
        group = adam.param_groups[0]
        rates = Schedule(optim, windows=total_steps, global_batch=1).at(step)
        assert rates.lr == pytest.approx(group["lr"], rel=1e-12)
        assert rates.betas == pytest.approx(group["betas"], rel=1e-12)
        adam.step()
        if step + 1 < total_steps:
            schedule.step()


def test_cosine_warms_up_linearly_and_ends_at_the_final_lr() -> None:
    optim = OptimConfig(
        lr=1.0,
        schedule="cosine",
        warmup=Length(share=0.2),
        initial_lr_ratio=0.1,
        final_lr_ratio=0.01,
    )
    lrs = [Schedule(optim, windows=100, global_batch=1).at(step).lr for step in range(100)]
    assert lrs[0] == pytest.approx(0.1)
    assert lrs[10] == pytest.approx(0.55)
    assert lrs[20] == pytest.approx(1.0)
    middle = 0.01 + 0.99 / 2 * (1 + math.cos(math.pi * 40 / 79))
    assert lrs[60] == pytest.approx(middle)
    assert lrs[99] == pytest.approx(0.01)


def test_warmup_stable_decay_is_flat_in_the_middle() -> None:
    optim = OptimConfig(
        lr=1.0,
        schedule="warmup_stable_decay",
        warmup=Length(share=0.1),
        decay=Length(share=0.2),
        initial_lr_ratio=0.0,
        final_lr_ratio=0.0,
    )
    lrs = [Schedule(optim, windows=100, global_batch=1).at(step).lr for step in range(100)]
    assert lrs[5] == pytest.approx(0.5)
    assert lrs[10:81] == pytest.approx([1.0] * 71)
    assert lrs[90] == pytest.approx(1 - 10 / 19)
    assert lrs[99] == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "warmup_stable_decay"])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("total_steps", [1, 2, 5, 50])
def test_every_step_of_every_schedule_is_in_range(
    schedule: str, share: float, total_steps: int
) -> None:
    optim = OptimConfig.model_validate(
        {"schedule": schedule, "warmup": {"share": share}, "cycle_momentum": True}
    )
    for step in range(total_steps):
        rates = Schedule(optim, windows=total_steps, global_batch=1).at(step)
        assert 0 <= rates.lr <= optim.lr * (1 + 1e-12)
        assert 0.8 < rates.betas[0] <= 0.95


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "warmup_stable_decay"])
@pytest.mark.parametrize(
    ("width", "factor"), [(8, 2.0), (128, 1.0), (512, 0.5**0.5), (48, (128 / 48) ** 0.25)]
)
def test_the_rate_of_another_width_is_its_share(schedule: str, width: int, factor: float) -> None:
    given = ["model.heads=1", f"model.width={width}", f"optim.schedule={schedule}"]
    plain = Schedule.of(load_run("quickstart", [*given, "optim.reference_width=null"]))
    found = Schedule.of(load_run("quickstart", [*given, "optim.reference_width=128"]))
    assert found.total_steps == plain.total_steps
    for step in range(plain.total_steps):
        assert found.at(step).lr == pytest.approx(factor * plain.at(step).lr, rel=1e-12)
        assert found.at(step).muon_lr == pytest.approx(factor * plain.at(step).muon_lr, rel=1e-12)
        assert found.at(step).betas == plain.at(step).betas
    if factor == 1:
        steps = range(plain.total_steps)
        assert [found.at(step) for step in steps] == [plain.at(step) for step in steps]


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "warmup_stable_decay"])
def test_the_rate_of_muon_rises_and_falls_as_that_of_adam(schedule: str) -> None:
    optim = OptimConfig.model_validate({"schedule": schedule, "lr": 1e-3, "muon_lr": 0.05})
    for step in range(50):
        rates = Schedule(optim, windows=50, global_batch=1).at(step)
        assert rates.muon_lr == pytest.approx(50 * rates.lr, rel=1e-12)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "warmup_stable_decay"])
def test_lengths_in_windows_are_those_of_the_same_share(schedule: str) -> None:
    of_both = [
        OptimConfig.model_validate({"schedule": schedule, "warmup": warmup, "decay": decay})
        for warmup, decay in (
            ({"share": 0.25}, {"share": 0.5}),
            ({"windows": 100}, {"windows": 200}),
        )
    ]
    shares, windows = (Schedule(optim, windows=400, global_batch=4) for optim in of_both)
    assert [windows.at(step) for step in range(100)] == [shares.at(step) for step in range(100)]


def test_runs_that_warm_up_for_as_many_windows_begin_alike() -> None:
    optim = OptimConfig(schedule="warmup_stable_decay", warmup=Length(windows=40))
    short, long = (Schedule(optim, windows=windows, global_batch=4) for windows in (200, 2000))
    assert [short.at(step) for step in range(40)] == [long.at(step) for step in range(40)]
