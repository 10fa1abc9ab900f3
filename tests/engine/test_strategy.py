"""The config that DeepSpeed gets: every JSON is complete for every model and world."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import FOLDER, read_strategy
from dpot_scale.engine.strategy import effective_deepspeed_config
from dpot_scale.models.dpot.family import FAMILY
from dpot_scale.models.dpot.network import Block

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
FP32_STAGES = {f"zero{stage}_fp32": {"zero_optimization": {"stage": stage}} for stage in (1, 2)}


def run_with(deepspeed: str, world_size: int = 1, size: str = "M") -> RunConfig:
    return load_run(
        "quickstart",
        [
            f"engine.deepspeed={deepspeed}",
            f"batch.global_batch={3 * 2 * world_size}",
            "batch.micro_batch=2",
            f"windows={12 * world_size}",
            f"model.size={size}",
            "optim.kind=adam",
            "optim.decoupled_weight_decay=false",
        ],
    )


def written(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "strategy.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def numbers_left_to_fill(config: Any) -> bool:
    if isinstance(config, dict):
        return any(numbers_left_to_fill(value) for value in config.values())
    return bool(config == "auto")


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 8, 64])
@pytest.mark.parametrize("name", NAMES)
def test_deepspeed_accepts_every_strategy_on_every_world(
    name: str, world_size: int, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed import comm
    from deepspeed.runtime.config import DeepSpeedConfig

    run = run_with(name, world_size)
    effective = effective_deepspeed_config(run, world_size, on_gpu=on_gpu)
    assert not numbers_left_to_fill(effective)
    # DeepSpeed checks the batch arithmetic against the world it asks for here.
    monkeypatch.setattr(comm, "get_rank", lambda: 0)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    parsed = DeepSpeedConfig(json.loads(json.dumps(effective)))
    assert parsed.world_size == world_size
    assert parsed.train_batch_size == run.batch.global_batch
    assert parsed.gradient_accumulation_steps == 3
    assert parsed.gradient_clipping == run.optim.gradient_clipping
    assert parsed.zero_optimization_stage == read_strategy(name).stage
    assert parsed.bfloat16_config.enabled == ("bf16" in name)
    assert parsed.bfloat16_config.check_grad_overflow
    assert parsed.float16_config.enabled == ("fp16" in name)
    assert parsed.optimizer_params["weight_decay"] == run.optim.weight_decay


def test_the_rate_is_the_peak_for_the_width_of_the_model() -> None:
    rates = ["optim.kind=adam", "optim.lr=3e-3", "optim.reference_width=64"]
    config = load_run("quickstart", [*rates, "model.width=1024"])
    found = effective_deepspeed_config(config, world_size=1, on_gpu=False)
    assert found["optimizer"]["params"]["lr"] == pytest.approx(1.5e-3)  # 3e-3 x (64 / 1024)^0.25


@pytest.mark.parametrize("name", NAMES)
def test_adam_is_torchs_except_on_the_host_of_a_gpu(name: str) -> None:
    offload = read_strategy(name).offload
    on_cpu = effective_deepspeed_config(run_with(name), 1, on_gpu=False)
    on_gpu = effective_deepspeed_config(run_with(name), 1, on_gpu=True)
    assert on_cpu["optimizer"]["params"]["torch_adam"]
    assert on_cpu.get("zero_force_ds_cpu_optimizer", True) is not offload
    assert ("torch_adam" in on_gpu["optimizer"]["params"]) is not offload


@pytest.mark.parametrize("on_gpu", [True, False])
def test_muon_is_no_optimizer_of_deepspeed(on_gpu: bool) -> None:
    for name in NAMES:
        run = load_run("quickstart", [f"engine.deepspeed={name}", "optim.kind=muon"])
        effective = effective_deepspeed_config(run, 1, on_gpu=on_gpu)
        assert "optimizer" not in effective
        assert effective["zero_allow_untested_optimizer"]
        offload = read_strategy(name).offload
        assert effective.get("zero_force_ds_cpu_optimizer", True) is not offload


def test_weight_decay_is_coupled_unless_asked_otherwise() -> None:
    run = run_with("zero3_bf16")
    coupled = effective_deepspeed_config(run, 1, on_gpu=False)["optimizer"]["params"]
    assert coupled["adam_w_mode"] is False
    decoupled_run = run.model_copy(
        update={"optim": run.optim.model_copy(update={"decoupled_weight_decay": True})}
    )
    decoupled = effective_deepspeed_config(decoupled_run, 1, on_gpu=False)["optimizer"]["params"]
    assert decoupled["adam_w_mode"] is True


def test_strategies_are_read_without_torch() -> None:
    code = (
        "import sys, dpot_scale.engine.strategy, dpot_scale.engine.memory;"
        "assert not {'torch', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_deepspeed_does_not_time_steps_unless_asked(tmp_path: Path) -> None:
    for name in NAMES:
        effective = effective_deepspeed_config(run_with(name), 1, on_gpu=True)
        assert effective["timers"] == {"throughput": {"enabled": False}}
    asked = {"timers": {"throughput": {"enabled": True, "synchronized": False}}}
    effective = effective_deepspeed_config(run_with(written(tmp_path, asked)), 1, on_gpu=True)
    assert effective["timers"] == asked["timers"]


def test_a_compiled_block_is_gathered_as_a_whole(tmp_path: Path) -> None:
    overrides = ["engine.compile=true", "optim.kind=adam"]
    for name in NAMES:
        config = load_run("quickstart", [*overrides, f"engine.deepspeed={name}"])
        effective = effective_deepspeed_config(config, 1, on_gpu=False)
        leaves = effective["zero_optimization"].get("leaf_module")
        assert leaves == ({"classes": [FAMILY.block]} if name.startswith("zero3") else None)
    module, _, name = FAMILY.block.rpartition(".")
    assert getattr(importlib.import_module(module), name) is Block
