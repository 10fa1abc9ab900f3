"""The time of a step by formula: that of docs/training.md, for plans too."""

import math
import re
import runpy
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.strategy import read_strategy
from dpot_scale.scaling.cost import DEVICES, sending_seconds
from dpot_scale.scaling.plan import TRIAL_OVERHEAD_SECONDS, plan

ROOT = Path(__file__).parents[2]
H = 1_031_082_099  # parameters, with 12 datasets
GPUS = 512


def published(batch: int, workers: int = GPUS, *settings: str) -> list[str]:
    """The published H, in batches of so many windows."""
    windows = round(127_900_000 / batch) * batch
    return [
        "ladder={H: {size: H}}",
        f"windows=[{windows}]",
        f"run.windows={windows}",
        f"run.batch={{global_batch: {batch}, micro_batch: auto}}",
        "run.engine={deepspeed: zero3_bf16, activation_checkpointing: full}",
        f"resources={{workers: {workers}, gpus_per_worker: 1, assumed_flops_per_second: 4e14}}",
        "run.model={grid: 128, channels: 4, skip_frames: 0}",
        *settings,
    ]


def test_a_table_of_the_documentation_is_the_formula() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "cluster_cost.py"))
    rows = [script["row"](size, gpus, 0.4, 2.5) for size in ("L", "H") for gpus in (8, 64, 512)]
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| [LH] \| \d+ \|.*\|$", page, re.M) == rows


def test_messages_decide_where_a_gpu_has_few_windows() -> None:
    """Each of the 100,000 steps gathers all parameters twice, however little there is to do."""
    (trial,) = plan(load_sweep("quickstart", published(GPUS)))
    steps = trial.run.steps
    per_step = 8 * trial.parameters * (GPUS - 1) / GPUS / 50e9
    assert trial.sending_seconds == pytest.approx(steps * per_step)
    assert trial.seconds == pytest.approx(steps * per_step + TRIAL_OVERHEAD_SECONDS)
    assert trial.seconds / 3600 > 10


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
    times = {name: [t.seconds for t in plan(sweep, name)] for name in DEVICES}
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
