"""The time of a step by formula: that of docs/training.md, for plans too."""

import math
import re
import runpy
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.config.strategy import read_strategy
from dpot_scale.runs.resolved import identify, resolve
from dpot_scale.scaling.cost import (
    DEVICES,
    DeviceName,
    StepCost,
    assumed_speed,
    sending_seconds,
    step_cost,
)
from dpot_scale.scaling.plan import TRIAL_OVERHEAD_SECONDS, plan

ROOT = Path(__file__).parents[2]
H = 1_031_082_099  # parameters, with 12 datasets
GPUS = 512


ZERO3 = "{deepspeed: zero3_bf16, activation_checkpointing: full}"
COMPILED = "{deepspeed: zero1_bf16, activation_checkpointing: full, compile: true}"


def published(batch: int, workers: int, *settings: str, engine: str = ZERO3) -> list[str]:
    """The published H, in batches of so many windows."""
    windows = round(127_900_000 / batch) * batch
    return [
        "ladder={H: {size: H}}",
        f"windows=[{windows}]",
        f"run.windows={windows}",
        f"run.batch={{global_batch: {batch}, micro_batch: auto}}",
        f"run.engine={engine}",
        f"resources={{workers: {workers}, gpus_per_worker: 1, assumed_flops_per_second: 4e14}}",
        "run.model={grid: 128, channels: 4, skip_frames: 0}",
        *settings,
    ]


def test_a_table_of_the_documentation_is_the_formula() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "cluster_cost.py"))
    rows = [script["row"](size, gpus, 0.4, 2.5) for size in ("L", "H") for gpus in (8, 64, 512)]
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| [LH] \| \d+ \|.*\|$", page, re.M) == rows


@pytest.mark.parametrize(
    ("engine", "bytes_per_parameter", "host_ms", "slowest"),
    [
        (ZERO3, 8, 12.9, "host"),
        (COMPILED, 6, 3.4, "sending"),
    ],
)
def test_messages_or_the_host_decide_where_a_gpu_has_few_windows(
    engine: str, bytes_per_parameter: int, host_ms: float, slowest: str
) -> None:
    """Each of the 250,000 steps sends as much and launches as much, however little there is to do.

    ZeRO-3 gathers all parameters twice.
    """
    (trial,) = plan(load_sweep("quickstart", published(GPUS, GPUS, engine=engine)))
    steps = trial.run.steps
    sending = steps * bytes_per_parameter * trial.parameters * (GPUS - 1) / GPUS / 50e9
    host = steps * 27 * host_ms / 1e3
    assert trial.sending_seconds == pytest.approx(sending)
    assert trial.host_seconds == pytest.approx(host)
    assert max(sending, host) == {"sending": sending, "host": host}[slowest]
    assert trial.seconds == pytest.approx(max(sending, host) + TRIAL_OVERHEAD_SECONDS)
    assert trial.sending_seconds / 3600 > 8


def cost_of(device: DeviceName, preset: str, *settings: str) -> StepCost:
    found = identify(load_run(preset, settings))
    run = resolve(found, world_size=1, on_gpu=DEVICES[device].is_gpu)
    return step_cost(run, device, assumed_speed(run, device))


@pytest.mark.parametrize("family", ["dpot", "vit", "fno"])
def test_a_small_model_on_a_gpu_waits_for_the_host(family: str) -> None:
    settings = [f"model.family={family}", "model.depth=5", "engine.deepspeed=zero1_bf16"]
    batches = [f"batch={{global_batch: 64, micro_batch: {size}}}" for size in (64, 16)]
    whole, in_four = (cost_of("h200", "quickstart", *settings, batch) for batch in batches)
    assert whole.seconds == whole.host == pytest.approx(5 * 3.9e-3)
    assert in_four.seconds == in_four.host == pytest.approx(4 * whole.host)
    assert in_four.computing == whole.computing < whole.host / 5
    on_cpu = cost_of("cpu", "quickstart", *settings, batches[0])
    assert on_cpu.host == 0
    assert on_cpu.seconds == on_cpu.computing


@pytest.mark.parametrize(
    ("windows", "compiled", "measured"), [(64, "true", 138.9e-3), (25, "false", 92.5e-3)]
)
def test_a_large_model_does_not_wait_for_the_host(
    windows: int, compiled: str, measured: float
) -> None:
    """Steps of L as an H100 made them (benchmarks/gpu_2026-11.md)."""
    batch = f"batch={{global_batch: {windows}, micro_batch: {windows}}}"
    strategy = "deepspeed: zero1_bf16, activation_checkpointing: none"
    engine = f"engine={{{strategy}, compile: {compiled}}}"
    cost = cost_of("h100", "paper_l", batch, engine, f"windows={100 * windows}")
    assert 0 < cost.host < 1.02 * measured
    assert cost.seconds == pytest.approx(cost.computing, rel=0.02)
    assert cost.seconds == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("strategy", "bytes_per_parameter"),
    [
        ("zero0_fp32", 8),
        ("zero1_bf16", 6),
        ("zero2_bf16", 4 * 3 + 2),
        ("zero3_bf16", 3 * 8),
        ("zero3_fp32", 3 * 12),
    ],
)
def test_bytes_by_the_stage(strategy: str, bytes_per_parameter: int) -> None:
    device = DEVICES["a100"]
    for workers, bandwidth in ((8, device.inside), (16, device.between)):
        seconds = sending_seconds(
            H, read_strategy(strategy), device, world_size=workers, accumulation_steps=3
        )
        others = (workers - 1) / workers
        assert seconds == pytest.approx(bytes_per_parameter * H * others / bandwidth)
    assert sending_seconds(H, read_strategy(strategy), device, world_size=1) == 0


def test_a_named_device_prices_all_workers() -> None:
    sweep = load_sweep("quickstart", ["run.engine.deepspeed=zero3_bf16"])
    busy = load_sweep("quickstart", published(512, 8, engine=COMPILED))
    times = {name: [t.seconds for t in plan(busy, name)] for name in DEVICES}
    assert times["cpu"] > times["a100"] > times["h100"] == times["h200"]
    ids = {name: [t.id for t in plan(sweep, name)] for name in DEVICES}
    assert len(set(map(tuple, ids.values()))) == 1, "no id depends on the device"
    gib = {name: [t.worker_gib for t in plan(sweep, name)] for name in ("cpu", "h100")}
    assert gib["h100"] < gib["cpu"]


def test_an_open_micro_batch_is_the_largest_that_fits_a_gpu() -> None:
    """Of 32 windows per GPU; so the parameters are gathered no more often than they must be."""
    (open_one,) = plan(load_sweep("quickstart", published(256, 8)), "h100")
    (largest,) = plan(
        load_sweep("quickstart", published(256, 8, "run.batch.micro_batch=32")), "h100"
    )
    (least,) = plan(load_sweep("quickstart", published(256, 8, "run.batch.micro_batch=1")), "h100")
    assert open_one.sending_seconds == largest.sending_seconds
    assert least.sending_seconds == pytest.approx(32 * largest.sending_seconds)
    assert not math.isinf(least.seconds)
