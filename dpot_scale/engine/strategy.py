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

from dpot_scale.config.schema import EngineConfig, OptimConfig, RunConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.engine.buffers import BUCKET_MULTIPLE, deepspeed_sizes, fit_buffers
from dpot_scale.errors import ConfigError
from dpot_scale.model.sizes import architecture

Dtype = Literal["fp32", "bf16", "fp16"]
Device = Literal["none", "cpu", "nvme"]  # none: where it is computed
Json = dict[str, Any]  # what the json module reads

AUTO = "auto"
# Beside the package in a checkout and in an installed environment alike.
FOLDER = Path(__file__).parents[2] / "deepspeed_configs"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# DeepSpeed ignores what it does not know at the top level, so the known keys are listed here.
TOP_LEVEL_KEYS = _words("""
    train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping
    zero_optimization bf16 fp16 data_types communication_data_type prescale_gradients
    gradient_predivide_factor steps_per_print wall_clock_breakdown memory_breakdown dump_state
    comms_logger flops_profiler aio checkpoint log_level disable_python_gc timers
    """)
# The fields of DeepSpeed's own models, without those it deprecates.
SECTION_KEYS: dict[str, frozenset[str]] = {
    "zero_optimization": _words("""
        stage contiguous_gradients reduce_scatter reduce_bucket_size
        use_multi_rank_bucket_allreduce allgather_partitions allgather_bucket_size overlap_comm
        compute_grad_norm load_from_fp32_weights elastic_checkpoint offload_param
        offload_optimizer zenflow sub_group_size stage3_prefetch_bucket_size
        stage3_param_persistence_threshold stage3_model_persistence_threshold
        stage3_max_live_parameters stage3_max_reuse_distance
        stage3_gather_16bit_weights_on_model_save stage3_module_granularity_threshold
        stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential
        ignore_unused_parameters legacy_stage1 round_robin_gradients parameter_alignment
        zero_hpz_partition_size zero_quantized_weights zero_quantized_nontrainable_weights
        zero_quantized_gradients memory_efficient_linear pipeline_loading_checkpoint
        override_module_apply log_trace_cache_warnings enable_sanity_checks
        save_muon_momentum_buffer_in_memory leaf_module
        """),
    "zero_optimization.offload_param": _words(
        "device nvme_path buffer_count buffer_size max_in_cpu pin_memory"
    ),
    "zero_optimization.offload_optimizer": _words("""
        device nvme_path buffer_count pin_memory pipeline_read pipeline_write fast_init ratio
        super_offload cpuadam_cores_perc
        """),
    "bf16": _words("""
        enabled immediate_grad_update check_grad_overflow bf16_master_weights_and_grads
        bf16_optimizer_states
        """),
    "fp16": _words("""
        enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis
        consecutive_hysteresis min_loss_scale fp16_master_weights_and_grads
        """),
    "timers": _words("throughput"),
    "timers.throughput": _words("enabled synchronized"),
}
OFFLOADS = ("offload_param", "offload_optimizer")
# The modules that torch.compile compiles. Stage 3 gathers such a leaf module as a whole, before and
# after it runs, so that no hook of DeepSpeed breaks up the compiled code.
BLOCK = "dpot_scale.model.dpot.Block"
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
    return dict(pairs)


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
        content = content.get(key) or {}
    return content


def _check_known(raw: Mapping[str, Any], known: frozenset[str], where: str, path: Path) -> None:
    for key in raw:
        if key not in known:
            raise ConfigError(f"{path}: DeepSpeed has no key {where + key!r}{nearest(key, known)}")


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
