"""A plan that cannot fit is refused, with the nearest one that can."""

import re

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.cost import DEVICES, DeviceName
from dpot_scale.scaling.fitting import require_fit
from dpot_scale.scaling.plan import on_device, plan

LARGE = (
    "ladder={L: {size: L}, H: {size: H}}",
    "windows=[12800]",
    "run.windows=12800",
    "run.model={grid: 128, channels: 4}",
    "run.batch={global_batch: 2560, micro_batch: 320}",
    "run.engine.deepspeed=zero1_bf16",
    "resources.workers=8",
)


def check(sweep: SweepConfig, device: DeviceName) -> None:
    require_fit(on_device(sweep, device), plan(sweep, device), device)


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ((), {"run.batch.micro_batch"}),
        (
            (
                "run.batch={global_batch: 8, micro_batch: 1}",
                "run.model.grid=2048",
            ),
            {"run.engine.activation_checkpointing"},
        ),
        (
            ("ladder={X: {size: H, depth: 120}}", "resources.workers=2"),
            {"run.engine.deepspeed", "resources.workers", "run.batch.micro_batch"},
        ),
    ],
)
def test_the_proposal_fits_and_names_the_same_trials(
    settings: tuple[str, ...], changed: set[str]
) -> None:
    sweep = load_sweep("quickstart", [*LARGE, *settings])
    with pytest.raises(ConfigError, match=r"needs [\d.]+ GiB per worker, and h100 has") as refused:
        check(sweep, "h100")
    proposal = str(refused.value).rpartition("the nearest plan that fits: ")[2].split()
    assert changed & {setting.partition("=")[0] for setting in proposal}
    mended = load_sweep("quickstart", [*LARGE, *settings, *proposal])
    check(mended, "h100")
    assert [t.id for t in plan(mended, "h100")] == [t.id for t in plan(sweep, "h100")]


def test_what_no_plan_fits_is_said() -> None:
    sweep = load_sweep("quickstart", [*LARGE, "ladder={X: {size: H, depth: 10000, width: 8192}}"])
    with pytest.raises(ConfigError, match="choose smaller models"):
        check(sweep, "a100")


def test_workers_of_this_machine_share_its_memory() -> None:
    sweep = load_sweep(
        "quickstart", ["resources.workers=4096", "run.batch={global_batch: 4096, micro_batch: 1}"]
    )
    with pytest.raises(ConfigError, match=r"each of 4096 workers on this machine has 0\.\d"):
        require_fit(sweep, plan(sweep), None)


def test_a_gpu_that_nobody_names_has_room() -> None:
    sweep = load_sweep("quickstart", [*LARGE, "resources.gpus_per_worker=1"])
    require_fit(sweep, plan(sweep), None)
    assert all(re.fullmatch("[a-z0-9]+", name) for name in DEVICES)
