"""How a run is sharded: one JSON of deepspeed_configs/, completed with what the run owns.

The JSON says how to shard; the run config says how much to train and the model how large it is.
No torch here, so plans and memory estimates stay cheap.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dpot_scale.config.run import EngineConfig, OptimConfig, RunConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.engine.buffers import BUCKET_MULTIPLE, deepspeed_sizes, fit_buffers
from dpot_scale.engine.deepspeed_keys import (
    AUTO,
    SECTION_KEYS,
    TOP_LEVEL_KEYS,
    expected_instead,
)
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.sizes import architecture

Dtype = Literal["fp32", "bf16", "fp16"]
Device = Literal["none", "cpu", "nvme"]  # none: where it is computed
Json = dict[str, Any]  # what the json module reads

# Beside the package in a checkout and in an installed environment alike.
FOLDER = Path(__file__).parents[2] / "deepspeed_configs"


OFFLOADS = ("offload_param", "offload_optimizer")
# The modules that torch.compile compiles. Stage 3 gathers such a leaf module as a whole, before and
# after it runs, so that no hook of DeepSpeed breaks up the compiled code.
BLOCK = "dpot_scale.models.dpot.network.Block"
# Numbers the JSON must leave to the run config, and where they are there.
OWNED_BY_RUN = {
    "train_batch_size": "batch.global_batch",
    "train_micro_batch_size_per_gpu": "batch.micro_batch",
    "gradient_accumulation_steps": "batch",
    "gradient_clipping": "optim.gradient_clipping",
}
# Sections that DeepSpeed knows and that would say a thing twice, or wrongly.
REFUSED_SECTIONS = {
    "optimizer": "set optim.* in the run config instead",
    "scheduler": "set optim.schedule in the run config instead",
    "activation_checkpointing": "set engine.activation_checkpointing in the run config instead",
    "torch_autocast": "recomputed activations would silently get another dtype; use bf16 instead",
}
# On by default; without them DeepSpeed applies a gradient that is not finite.
NEEDED_TO_SKIP = (("zero_optimization", "compute_grad_norm"), ("bf16", "check_grad_overflow"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """What a JSON of deepspeed_configs/ decides."""

    source: Path
    stage: int  # of ZeRO, 0 to 3
    dtype: Dtype  # of the parameters in the forward; masters are always fp32
    gradient_dtype: Dtype  # in which gradients add up between micro steps
    optimizer_device: Device  # of masters, moments and gradients
    parameter_device: Device  # of sharded parameters that are not in use
    raw: Json

    @property
    def offload(self) -> bool:
        """Whether a part of the state lives somewhere else than the computation."""
        return self.optimizer_device != "none" or self.parameter_device != "none"

    @property
    def lean(self) -> bool:
        """Whether it gives up speed or precision to save memory."""
        return self.offload or (self.dtype != "fp32" and self.gradient_dtype == self.dtype)


def read_strategy(name_or_path: str) -> Strategy:
    """Read a strategy by its name in deepspeed_configs/ or from a JSON file.

    Raises:
        ConfigError: no such file, a key DeepSpeed does not know, a number the run config owns.
    """
    path = _find(name_or_path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read DeepSpeed config {path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"DeepSpeed config {path} must hold an object")
    _check_keys(raw, path)
    zero = _section(raw, "zero_optimization")
    dtype = _dtype(raw, path)
    strategy = Strategy(
        source=path,
        stage=zero.get("stage", 0),
        dtype=dtype,
        gradient_dtype=_section(raw, "data_types").get("grad_accum_dtype") or dtype,
        optimizer_device=_device(zero, "offload_optimizer", path),
        parameter_device=_device(zero, "offload_param", path),
        raw=raw,
    )
    if strategy.stage not in range(4):
        raise ConfigError(f"{path}: zero_optimization.stage={strategy.stage!r} is not 0, 1, 2 or 3")
    for section, key in NEEDED_TO_SKIP:
        if _section(raw, section).get(key, True) is not True:
            raise ConfigError(
                f"{path}: remove {section}.{key}: a step whose gradient is not finite must be found"
            )
    if strategy.stage == 0 and strategy.dtype != "fp32":
        raise ConfigError(
            f"{path}: {strategy.dtype} needs fp32 masters, which stage 0 lacks; use stage 1"
        )
    _check_bucket(zero, strategy)
    return strategy


def effective_deepspeed_config(config: RunConfig, world_size: int, *, on_gpu: bool) -> Json:
    """Return the complete config DeepSpeed gets: the strategy, and what the run and model decide.

    Raises:
        ConfigError: the strategy is invalid, or the batch does not divide.
    """
    strategy = read_strategy(config.engine.deepspeed)
    # DeepSpeed's throughput timer would wait for the device twice in every micro step.
    effective: Json = {"timers": {"throughput": {"enabled": False}}}
    effective |= copy.deepcopy(strategy.raw) | {
        "train_batch_size": config.batch.global_batch,
        "train_micro_batch_size_per_gpu": config.batch.settled_micro_batch,
        "gradient_accumulation_steps": config.batch.accumulation_steps(world_size),
        "gradient_clipping": config.optim.gradient_clipping,
        "optimizer": _optimizer(config.optim, from_torch=not (on_gpu and strategy.offload)),
    }
    if strategy.offload and not on_gpu:
        effective["zero_force_ds_cpu_optimizer"] = False  # torch's is as fast, and is there
    zero = effective.setdefault("zero_optimization", {"stage": 0})
    _set_nvme_path(zero, config.engine, strategy)
    buffers = fit_buffers(architecture(config.model), on_gpu=on_gpu)
    fitted = deepspeed_sizes(buffers, strategy.stage)
    # What the JSON says about these tunes how to shard, so it stands.
    zero |= {key: value for key, value in fitted.items() if zero.get(key, AUTO) == AUTO}
    if unfitted := [key for key, value in zero.items() if value == AUTO]:
        raise ConfigError(
            f'{strategy.source}: zero_optimization.{unfitted[0]} cannot be "auto" at stage '
            f"{strategy.stage}: remove it or write a number"
        )
    if config.engine.compile and strategy.stage == 3:
        zero.setdefault("leaf_module", {"classes": [BLOCK]})
    return effective


def _set_nvme_path(zero: Json, engine: EngineConfig, strategy: Strategy) -> None:
    for section in OFFLOADS:
        if _section(zero, section).get("nvme_path") == AUTO:
            if engine.nvme_path is None:
                raise ConfigError(
                    f"{strategy.source.name} keeps training state on disk: set engine.nvme_path to "
                    "a folder on a local NVMe drive of every node"
                )
            zero[section]["nvme_path"] = str(engine.nvme_path)


def _optimizer(optim: OptimConfig, *, from_torch: bool) -> Json:
    """Return Adam as DeepSpeed spells it: torch's, or DeepSpeed's for the host of a GPU."""
    params: Json = {
        "lr": optim.lr,
        "betas": list(optim.betas),
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
        "adam_w_mode": optim.decoupled_weight_decay,
    }
    if from_torch:
        # Fused: one pass over the shard, without temporaries of its size.
        params |= {"torch_adam": True, "fused": True, "foreach": False}
    return {"type": "Adam", "params": params}


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".json":
        return path
    path = FOLDER / f"{name_or_path}.json"
    if not path.is_file():
        known = sorted(file.stem for file in FOLDER.glob("*.json"))
        raise ConfigError(
            f"engine.deepspeed={name_or_path!r} is not in deepspeed_configs/"
            f"{nearest(name_or_path, known)}; give a .json file or one of: {', '.join(known)}"
        )
    return path


def _unique_keys(pairs: list[tuple[str, Any]]) -> Json:
    keys = [key for key, _ in pairs]
    repeated = {key for key in keys if keys.count(key) > 1}
    if repeated:
        raise ValueError(f"key {min(repeated)!r} appears twice")
    return {key: value for key, value in pairs if value is not None}  # null: not set


def _check_keys(raw: Json, path: Path) -> None:
    for key, value in raw.items():
        if key in REFUSED_SECTIONS:
            raise ConfigError(f"{path}: remove {key!r}: {REFUSED_SECTIONS[key]}")
        if key in OWNED_BY_RUN and value != AUTO:
            raise ConfigError(
                f"{path}: {key}={value!r} is owned by {OWNED_BY_RUN[key]} in the run config; "
                f'write "auto"'
            )
    _check_known(raw, TOP_LEVEL_KEYS, "", path)
    for section, known in SECTION_KEYS.items():
        content = _section(raw, section)
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: {section} must hold an object, not {content!r}")
        _check_known(content, known, f"{section}.", path)


def _section(raw: Json, dotted: str) -> Any:  # noqa: ANN401 - JSON
    content: Any = raw
    for key in dotted.split("."):
        content = content.get(key, {})
    return content


def _check_known(raw: Mapping[str, Any], known: frozenset[str], where: str, path: Path) -> None:
    for key, value in raw.items():
        if key not in known:
            raise ConfigError(f"{path}: DeepSpeed has no key {where + key!r}{nearest(key, known)}")
        if (expected := expected_instead(key, value)) is not None:
            raise ConfigError(f"{path}: {where}{key}={value!r} is not {expected}")


def _check_bucket(zero: Json, strategy: Strategy) -> None:
    size = zero.get("allgather_bucket_size", AUTO)
    if strategy.stage in (1, 2) and isinstance(size, int) and size % BUCKET_MULTIPLE:
        raise ConfigError(
            f"{strategy.source}: zero_optimization.allgather_bucket_size={size} is not a multiple "
            f"of {BUCKET_MULTIPLE}, as DeepSpeed demands; write {size + 1}"
        )


def _device(zero: Json, section: str, path: Path) -> Device:
    device = _section(zero, section).get("device", "none")
    if device not in get_args(Device):
        raise ConfigError(
            f"{path}: zero_optimization.{section}.device={device!r} is not one of "
            f"{', '.join(get_args(Device))}"
        )
    found: Device = device
    return found


def _dtype(raw: Json, path: Path) -> Dtype:
    bf16, fp16 = (bool(_section(raw, dtype).get("enabled")) for dtype in ("bf16", "fp16"))
    if bf16 and fp16:
        raise ConfigError(f"{path}: bf16 and fp16 are both enabled; enable one")
    return "bf16" if bf16 else "fp16" if fp16 else "fp32"
