"""Files of deepspeed_configs/ and of users: what they say, and one sentence per mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.config.strategy import FOLDER, read_strategy
from dpot_scale.errors import ConfigError

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def written(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "strategy.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_the_shipped_names() -> None:
    assert NAMES == [
        "zero0_fp32",
        "zero1_bf16",
        "zero2_bf16",
        "zero3_bf16",
        "zero3_bf16_lean",
        "zero3_bf16_offload",
        "zero3_fp16",
        "zero3_fp32",
    ]
    for name in NAMES:
        strategy = read_strategy(name)
        assert name.startswith(f"zero{strategy.stage}_{strategy.dtype}")
        assert strategy.offload == name.endswith("_offload")
        assert strategy.gradient_dtype == ("bf16" if name.endswith("_lean") else "fp32")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"zero_optimisation": {"stage": 3}}, r"'zero_optimisation' \(did you mean 'zero_opt"),
        (
            {"zero_optimization": {"sage": 3}},
            r"'zero_optimization.sage' \(did you mean 'zero_optimization.stage'",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}},
            "'zero_optimization.offload_param.devise' "
            ".did you mean 'zero_optimization.offload_param.device'",
        ),
        ({"bf16": {"enable": True}}, r"'bf16.enable' \(did you mean 'bf16.enabled'\?\)"),
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


def test_null_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    path = written(tmp_path, {"zero_optimization": None, "bf16": {"enabled": None}})
    assert (read_strategy(path).stage, read_strategy(path).dtype) == (0, "fp32")


def test_unknown_name_and_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"'zero3_bf61' .*did you mean 'zero3_bf16'"):
        read_strategy("zero3_bf61")
    with pytest.raises(ConfigError, match="cannot read DeepSpeed config nowhere"):
        read_strategy("nowhere.json")


def test_an_odd_bucket_of_the_user_is_a_sentence(tmp_path: Path) -> None:
    content = {"zero_optimization": {"stage": 2, "allgather_bucket_size": 1001}}
    with pytest.raises(ConfigError, match=r"allgather_bucket_size=1001 .* write 1002"):
        read_strategy(written(tmp_path, content))
