"""What is known of DeepSpeed's keys is what DeepSpeed itself knows."""

from dpot_scale.config.deepspeed_keys import SECTION_KEYS, expected_instead
from dpot_scale.config.strategy import OFFLOADS


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
