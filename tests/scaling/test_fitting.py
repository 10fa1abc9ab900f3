"""A plan that cannot fit is refused, with the nearest one that can."""

import re
from dataclasses import replace

import pytest

from dpot_scale.config.load import load_sweep, presets
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.cost import DEVICES, DeviceName
from dpot_scale.scaling.fitting import MARGIN, NO_NODES, Node, require_fit
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


def test_a_range_of_workers_must_fit_where_they_are_fewest() -> None:
    """ZeRO-3 divides a model among the workers."""
    large = [*LARGE, "run.engine.deepspeed=zero3_bf16", "run.batch.micro_batch=1"]
    large += ["ladder={X: {size: H, depth: 300}}", "run.engine.activation_checkpointing=full"]
    check(load_sweep("quickstart", [*large, "resources.workers=16"]), "h100")
    sweep = load_sweep("quickstart", [*large, "resources.workers=[1,16]"])
    with pytest.raises(ConfigError, match=r"nearest plan that fits: resources\.workers=\[\d+,16\]"):
        check(sweep, "h100")


def test_a_gpu_that_nobody_names_has_room() -> None:
    sweep = load_sweep("quickstart", [*LARGE, "resources.gpus_per_worker=1"])
    require_fit(sweep, plan(sweep), None)
    assert all(re.fullmatch("[a-z0-9]+", name) for name in DEVICES)


def on_cpus(cpus: float, gib: float | None) -> Node:
    return Node(cpus=cpus, gpus=0, gib=gib, gpu_gib=None)


@pytest.mark.parametrize(
    ("nodes", "room"),
    [
        ([on_cpus(2, 12.0)], 6.0),
        ([on_cpus(64, 12.0)], 6.0),
        ([on_cpus(1, 12.0), on_cpus(1, 8.0)], 8.0),
        ([on_cpus(8, 12.0), on_cpus(8, 4.0)], 6.0),
        ([on_cpus(8, 12.0), on_cpus(8, 7.0)], 7.0),
        ([on_cpus(8, 12.0), on_cpus(1, None)], 12.0),
    ],
)
def test_a_cluster_is_refused_by_the_memory_of_its_nodes(nodes: list[Node], room: float) -> None:
    """Two workers go where they have the most."""
    settings = ["resources.workers=2", "resources.gpus_per_worker=0", "ladder={a: {width: 64}}"]
    sweep = load_sweep("quickstart", settings)
    (trial,) = plan(sweep)
    fits = replace(trial, worker_gib=MARGIN * room - 0.01)
    require_fit(sweep, [fits], None, nodes)
    with pytest.raises(ConfigError) as refused:
        require_fit(sweep, [replace(trial, worker_gib=MARGIN * room + 0.1)], None, nodes)
    words = f"each of 2 workers of the cluster has {room:.1f}; "
    assert words in str(refused.value)


def test_the_gpus_of_a_cluster_have_what_their_kind_has() -> None:
    settings = [*LARGE, "resources.gpus_per_worker=1", "resources.workers=2"]
    sweep = load_sweep("quickstart", settings)
    trials = plan(sweep)
    node = Node(cpus=16, gpus=2, gib=2000.0, gpu_gib=None)
    require_fit(sweep, trials, None, [node])
    with pytest.raises(ConfigError, match=r"each of 2 workers of the cluster has 79\.6; the near"):
        require_fit(sweep, trials, None, [replace(node, gpu_gib=79.6)])
    # The smallest that fits is found by the run itself.
    auto = load_sweep("quickstart", [*settings, "run.batch.micro_batch=auto"])
    require_fit(auto, plan(auto), None, [replace(node, gpu_gib=79.6)])


@pytest.mark.parametrize("name", presets("sweep"))
def test_no_preset_is_refused_here(name: str) -> None:
    sweep = load_sweep(name)
    trials = plan(sweep)
    laptop = on_cpus(2, 8.0)
    with_gpus = 8 * [Node(cpus=128, gpus=8, gib=None, gpu_gib=79.6)]
    for nodes in (NO_NODES, with_gpus if sweep.resources.gpus_per_worker == 1 else [laptop]):
        require_fit(sweep, trials, None, nodes)
