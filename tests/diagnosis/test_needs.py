"""What a run needs of network and storage is what its plan is priced by."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dpot_scale.config.load import load_run
from dpot_scale.diagnosis import examination
from dpot_scale.diagnosis.needs import needs_of
from dpot_scale.engine.runtime import World
from dpot_scale.errors import ConfigError
from dpot_scale.runs.resolved import identify, resolve
from dpot_scale.scaling.cost import DEVICES, assumed_speed, step_cost

BATCH = ["batch={global_batch: 512, micro_batch: 64}", "windows=51200"]


@pytest.fixture
def world() -> World:
    return World(rank=0, local_rank=0, world_size=8, device=torch.device("cpu"))


def test_a_run_needs_as_much_as_makes_it_wait_for_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    config = load_run("paper_l", ["engine.deepspeed=zero1_bf16", *BATCH])
    needs = needs_of(config, replace(world, device=torch.device("cuda", 0)))
    run = resolve(identify(config), world_size=8, on_gpu=True)
    cost = step_cost(run, "a100", assumed_speed(run, "a100"))
    assert needs.sending == pytest.approx(DEVICES["a100"].inside * cost.sending / cost.computing), (
        "so that messages take as long as computing"
    )
    window = 4 * config.window_frames * config.model.channels * 128 * 128
    assert cost.host < cost.seconds
    assert needs.reading == pytest.approx(512 / cost.seconds * window)


def test_a_small_model_on_a_gpu_reads_no_faster_than_the_host_launches_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the FLOPs of the GPU alone it would read hundreds of GB/s."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    strategy = "engine.deepspeed=zero1_bf16"
    config = load_run("quickstart", [strategy, "batch={global_batch: 64, micro_batch: auto}"])
    on_gpu = replace(world, world_size=2, device=torch.device("cuda", 0))
    needs = needs_of(config, on_gpu)
    run = resolve(identify(config), world_size=2, on_gpu=True, micro_batch=32)
    cost = step_cost(run, "h200", assumed_speed(run, "h200"))
    window = 4 * config.window_frames * config.model.channels * 64 * 64
    assert needs.reading == pytest.approx(64 * window / cost.host)
    assert 1e8 < needs.reading < 1e10
    sent = DEVICES["h200"].inside * cost.sending
    assert needs.sending == pytest.approx(sent / cost.host)
    assert 0 < needs.sending < 1e9


def test_ranks_that_a_batch_does_not_divide_among_are_said(world: World) -> None:
    config: Any = load_run("quickstart")
    needs, (problem,) = examination._needs(config, replace(world, world_size=3))
    assert needs is None
    assert (problem.check, problem.verdict) == ("config", "note")
    assert "global_batch=8" in problem.found
    assert examination._needs(config, replace(world, world_size=2))[1] == []


def test_a_run_that_would_be_refused_has_no_needs(world: World, tmp_path: Path) -> None:
    zero = {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme"}}
    (tmp_path / "disk.json").write_text(json.dumps({"zero_optimization": zero}))
    config = load_run("quickstart", [f"engine.deepspeed={tmp_path}/disk.json"])
    with pytest.raises(ConfigError, match="keeps training state on a disk"):
        needs_of(config, replace(world, world_size=1))
