"""deepspeed_configs/: every JSON resolves for every world, and every mistake is one sentence."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from dpot_scale.config.deepspeed_keys import SECTION_KEYS, expected_instead
from dpot_scale.config.load import load_run
from dpot_scale.config.model import ModelConfig, SizeName
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import FOLDER, OFFLOADS, read_strategy
from dpot_scale.engine.buffers import fit_buffers
from dpot_scale.engine.strategy import BLOCK, effective_deepspeed_config
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.cost import count_parameters
from dpot_scale.models.dpot.network import Block
from dpot_scale.models.dpot.sizes import architecture

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
FP32_STAGES = {f"zero{stage}_fp32": {"zero_optimization": {"stage": stage}} for stage in (1, 2)}


def run_with(deepspeed: str, world_size: int = 1, size: str = "M") -> RunConfig:
    return load_run(
        "quickstart",
        [
            f"engine.deepspeed={deepspeed}",
            "engine.nvme_path=/nvme",
            f"batch.global_batch={3 * 2 * world_size}",
            "batch.micro_batch=2",
            f"windows={12 * world_size}",
            f"model.size={size}",
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


def test_the_shipped_names() -> None:
    assert NAMES == [
        "zero0_fp32",
        "zero1_bf16",
        "zero2_bf16",
        "zero3_bf16",
        "zero3_bf16_lean",
        "zero3_bf16_nvme",
        "zero3_bf16_offload",
        "zero3_fp16",
        "zero3_fp32",
    ]
    for name in NAMES:
        strategy = read_strategy(name)
        assert name.startswith(f"zero{strategy.stage}_{strategy.dtype}")
        assert strategy.offload == name.endswith(("_offload", "_nvme"))
        assert strategy.gradient_dtype == ("bf16" if name.endswith("_lean") else "fp32")


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


def test_known_keys_are_deepspeeds() -> None:
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    models = {
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
    }
    for section, model in models.items():
        fields = {
            field.alias or name
            for name, field in model.model_fields.items()
            if not (field.json_schema_extra or {}).get("deprecated")
        }
        assert fields == SECTION_KEYS[section]


def test_buffers_follow_the_model_and_the_device() -> None:
    sizes = ("debug", "Ti", "L", "H")
    on_cpu = [fit_buffers(architecture(ModelConfig(size=size)), on_gpu=False) for size in sizes]
    assert [buffers.live for buffers in on_cpu] == sorted(buffers.live for buffers in on_cpu)
    # Small models are handled whole; of large ones a block and its largest matrix are here.
    assert on_cpu[0].chunk == on_cpu[0].live == 202_131
    assert on_cpu[2].chunk == 4 * 1536**2
    assert on_cpu[2].live == 467_619_840 // 24 + 4 * 1536**2
    on_gpu = fit_buffers(architecture(ModelConfig(size="L")), on_gpu=True)
    assert on_gpu.live > on_cpu[2].live
    assert on_gpu.persistent > on_cpu[2].persistent == 0


@pytest.mark.parametrize("name", NAMES)
def test_adam_is_torchs_except_on_the_host_of_a_gpu(name: str) -> None:
    offload = read_strategy(name).offload
    on_cpu = effective_deepspeed_config(run_with(name), 1, on_gpu=False)
    on_gpu = effective_deepspeed_config(run_with(name), 1, on_gpu=True)
    assert on_cpu["optimizer"]["params"]["torch_adam"]
    assert on_cpu.get("zero_force_ds_cpu_optimizer", True) is not offload
    assert ("torch_adam" in on_gpu["optimizer"]["params"]) is not offload


def test_the_disk_is_named_by_the_run() -> None:
    config = effective_deepspeed_config(run_with("zero3_bf16_nvme"), 1, on_gpu=True)
    assert config["zero_optimization"]["offload_optimizer"]["nvme_path"] == "/nvme"
    with pytest.raises(ConfigError, match=r"zero3_bf16_nvme .*: set engine.nvme_path"):
        effective_deepspeed_config(
            load_run("quickstart", ["engine.deepspeed=zero3_bf16_nvme"]), 1, on_gpu=True
        )


def test_a_written_buffer_size_stands(tmp_path: Path) -> None:
    path = written(tmp_path, {"zero_optimization": {"stage": 3, "sub_group_size": 1234}})
    effective = effective_deepspeed_config(run_with(path), 1, on_gpu=False)
    assert effective["zero_optimization"]["sub_group_size"] == 1234


def test_weight_decay_is_coupled_unless_asked_otherwise() -> None:
    run = run_with("zero3_bf16")
    coupled = effective_deepspeed_config(run, 1, on_gpu=False)["optimizer"]["params"]
    assert coupled["adam_w_mode"] is False
    decoupled_run = run.model_copy(
        update={"optim": run.optim.model_copy(update={"decoupled_weight_decay": True})}
    )
    decoupled = effective_deepspeed_config(decoupled_run, 1, on_gpu=False)["optimizer"]["params"]
    assert decoupled["adam_w_mode"] is True


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"zero_optimisation": {"stage": 3}}, r"'zero_optimisation' \(did you mean 'zero_opt"),
        ({"zero_optimization": {"sage": 3}}, r"'zero_optimization.sage' \(did you mean 'stage'"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}},
            "'zero_optimization.offload_param.devise' .did you mean 'device'",
        ),
        ({"bf16": {"enable": True}}, r"'bf16.enable' \(did you mean 'enabled'\?\)"),
        ({"train_batch_size": 32}, "train_batch_size=32 is owned by batch.global_batch"),
        ({"gradient_clipping": 1.0}, "gradient_clipping=1.0 is owned by optim.gradient_clipping"),
        ({"optimizer": {"type": "Adam"}}, r"remove 'optimizer': set optim\.\*"),
        ({"torch_autocast": {"enabled": True}}, "remove 'torch_autocast'"),
        (
            {"bf16": {"enabled": True, "check_grad_overflow": False}},
            r"remove bf16\.check_grad_overflow: a step whose gradient is not finite",
        ),
        (
            {"zero_optimization": {"stage": 1, "compute_grad_norm": False}},
            r"remove zero_optimization\.compute_grad_norm",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "gpu"}}},
            "offload_param.device='gpu' is not one of none, cpu, nvme",
        ),
        ({"zero_optimization": {"stage": 4}}, "stage=4 is not 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": "2"}}, "stage='2' is not a whole number"),
        ({"zero_optimization": {"stage": True}}, "stage=True is not a whole number"),
        (
            {"zero_optimization": {"stage": 3, "reduce_bucket_size": "abc"}},
            "zero_optimization.reduce_bucket_size='abc' is not a positive whole number",
        ),
        ({"zero_optimization": {"sub_group_size": -1}}, "sub_group_size=-1 is not a whole number"),
        ({"zero_optimization": {"overlap_comm": "maybe"}}, "overlap_comm='maybe' is not true or"),
        ({"bf16": {"enabled": "false"}}, "bf16.enabled='false' is not true or false"),
        (
            {"zero_optimization": {"offload_optimizer": {"ratio": 5}}},
            "offload_optimizer.ratio=5 is not a number from 0 to 1",
        ),
        ({"zero_optimization": {"offload_optimizer": []}}, "offload_optimizer must hold an object"),
        ({"data_types": {"grad_accum_dtype": "int3"}}, "is not one of fp32, bf16, fp16"),
        ({"data_types": "fp32"}, "data_types must hold an object"),
        ({"gradient_predivide_factor": 0}, "gradient_predivide_factor=0 is not a positive number"),
        ({"aio": 3}, "aio=3 is not an object"),
        ({"zero_optimization": 3}, "zero_optimization must hold an object, not 3"),
        ({"bf16": {"enabled": True}}, "bf16 needs fp32 masters"),
        (
            {"zero_optimization": {"stage": 1}, "bf16": {"enabled": 1}, "fp16": {"enabled": 1}},
            "both enabled",
        ),
        ('{"bf16": {}, "bf16": {}}', "key 'bf16' appears twice"),
        ("[1]", "must hold an object"),
        ("{", "cannot read DeepSpeed config"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=sentence) as error:
        read_strategy(path)
    assert "\n" not in str(error.value)


def test_what_deepspeed_would_refuse_is_known_here() -> None:
    """Every field of DeepSpeed's models that is a flag or a number is known as one."""
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    for model in (
        DeepSpeedZeroConfig,
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
        DeepSpeedBF16Config,
        DeepSpeedFP16Config,
    ):
        for name, field in model.model_fields.items():
            if not (field.json_schema_extra or {}).get("deprecated"):
                key = field.alias or name
                checked = expected_instead(key, "text") is not None
                assert checked or key in ("device", "nvme_path", *OFFLOADS), key


def test_null_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    path = written(tmp_path, {"zero_optimization": None, "bf16": {"enabled": None}})
    assert (read_strategy(path).stage, read_strategy(path).dtype) == (0, "fp32")


def test_a_size_that_a_stage_does_not_know_cannot_be_fitted(tmp_path: Path) -> None:
    path = written(tmp_path, {"zero_optimization": {"stage": 3, "allgather_bucket_size": "auto"}})
    with pytest.raises(ConfigError, match='allgather_bucket_size cannot be "auto" at stage 3'):
        effective_deepspeed_config(run_with(path), 1, on_gpu=False)


def test_unknown_name_and_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"'zero3_bf61' .*did you mean 'zero3_bf16'"):
        read_strategy("zero3_bf61")
    with pytest.raises(ConfigError, match="cannot read DeepSpeed config nowhere"):
        read_strategy("nowhere.json")


def test_strategies_are_read_without_torch() -> None:
    code = (
        "import sys, dpot_scale.engine.strategy, dpot_scale.engine.memory;"
        "assert not {'torch', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
    total = count_parameters(architecture(ModelConfig(size=size))).total
    sizes = [value for key, value in zero.items() if key.endswith("bucket_size")]
    assert all(0 < value <= total + 1 for value in sizes)


def test_an_odd_bucket_of_the_user_is_a_sentence(tmp_path: Path) -> None:
    content = {"zero_optimization": {"stage": 2, "allgather_bucket_size": 1001}}
    with pytest.raises(ConfigError, match=r"allgather_bucket_size=1001 .* write 1002"):
        read_strategy(written(tmp_path, content))


def test_deepspeed_does_not_time_steps_unless_asked(tmp_path: Path) -> None:
    for name in NAMES:
        effective = effective_deepspeed_config(run_with(name), 1, on_gpu=True)
        assert effective["timers"] == {"throughput": {"enabled": False}}
    asked = {"timers": {"throughput": {"enabled": True, "synchronized": False}}}
    effective = effective_deepspeed_config(run_with(written(tmp_path, asked)), 1, on_gpu=True)
    assert effective["timers"] == asked["timers"]


def test_a_compiled_block_is_gathered_as_a_whole(tmp_path: Path) -> None:
    overrides = ["engine.compile=true", "engine.deepspeed="]
    for name in NAMES:
        config = load_run("quickstart", [overrides[0], overrides[1] + name, "engine.nvme_path=/n"])
        effective = effective_deepspeed_config(config, 1, on_gpu=False)
        leaves = effective["zero_optimization"].get("leaf_module")
        assert leaves == ({"classes": [BLOCK]} if name.startswith("zero3") else None)
    module, _, name = BLOCK.rpartition(".")
    assert getattr(importlib.import_module(module), name) is Block
