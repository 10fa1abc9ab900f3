"""Buffers: of a size that fits the model and the device."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import FOLDER
from dpot_scale.engine.buffers import fit_buffers
from dpot_scale.engine.strategy import effective_deepspeed_config
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.config import DPOTConfig, SizeName
from dpot_scale.models.dpot.cost import count_parameters
from dpot_scale.models.dpot.family import FAMILY
from dpot_scale.models.family import KEEP_ALL, Footprint

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
        ],
    )


def written(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "strategy.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def footprint(size: str) -> Footprint:
    return FAMILY.footprint(DPOTConfig.model_validate({"size": size}), KEEP_ALL, "bf16", "float32")


def test_buffers_follow_the_model_and_the_device() -> None:
    sizes = ("debug", "Ti", "L", "H")
    on_cpu = [fit_buffers(footprint(size), on_gpu=False) for size in sizes]
    assert [buffers.live for buffers in on_cpu] == sorted(buffers.live for buffers in on_cpu)
    # Small models are handled whole; of large ones a block and its largest matrix are here.
    assert on_cpu[0].chunk == on_cpu[0].live == 202_131
    assert on_cpu[2].chunk == 4 * 1536**2
    assert on_cpu[2].live == 467_619_840 // 24 + 4 * 1536**2
    on_gpu = fit_buffers(footprint("L"), on_gpu=True)
    assert on_gpu.live > on_cpu[2].live
    assert on_gpu.persistent > on_cpu[2].persistent == 0


def test_a_written_buffer_size_stands(tmp_path: Path) -> None:
    path = written(tmp_path, {"zero_optimization": {"stage": 3, "sub_group_size": 1234}})
    effective = effective_deepspeed_config(run_with(path), 1, on_gpu=False)
    assert effective["zero_optimization"]["sub_group_size"] == 1234


def test_a_size_that_a_stage_does_not_know_cannot_be_fitted(tmp_path: Path) -> None:
    path = written(tmp_path, {"zero_optimization": {"stage": 3, "allgather_bucket_size": "auto"}})
    with pytest.raises(ConfigError, match='allgather_bucket_size cannot be "auto" at stage 3'):
        effective_deepspeed_config(run_with(path), 1, on_gpu=False)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("size", get_args(SizeName))
@pytest.mark.parametrize("name", [*NAMES, *FP32_STAGES])
def test_buckets_are_such_that_deepspeed_starts(
    name: str, size: str, world_size: int, on_gpu: bool, tmp_path: Path
) -> None:
    path = written(tmp_path, FP32_STAGES[name]) if name in FP32_STAGES else name
    effective = effective_deepspeed_config(
        run_with(path, world_size, size), world_size, on_gpu=on_gpu
    )
    zero = effective["zero_optimization"]
    if zero["stage"] in (1, 2):
        # What DeepSpeedZeroOptimizer asserts when it is made.
        assert zero["allgather_bucket_size"] % 2 == 0
    total = count_parameters(DPOTConfig(size=size)).total
    sizes = [value for key, value in zero.items() if key.endswith("bucket_size")]
    assert all(0 < value <= total + 1 for value in sizes)
