"""How a run is sharded: the content of one JSON of deepspeed_configs/, as a value.

The JSON says how to shard; the run config says how much to train, and the model how large it is.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import model_validator

from dpot_scale.config.base import Section
from dpot_scale.config.deepspeed_keys import (
    AUTO,
    BUCKET_MULTIPLE,
    SECTION_KEYS,
    TOP_LEVEL_KEYS,
    expected_instead,
)
from dpot_scale.config.sentences import nearest
from dpot_scale.errors import ConfigError

Dtype = Literal["fp32", "bf16", "fp16"]
ELEMENT_BYTES: dict[Dtype, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
Device = Literal["none", "cpu", "nvme"]  # none: where it is computed
Json = dict[str, Any]  # what the json module reads

# An installed package brings the files along; in a checkout they lie where people read them.
PLACES = (Path(__file__).parent / "presets" / "deepspeed", Path(__file__).parents[2])
FOLDER = PLACES[0] if PLACES[0].is_dir() else PLACES[1] / "deepspeed_configs"

OFFLOADS = ("offload_param", "offload_optimizer")
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
# What decides the numbers of a run beside the dtypes, and what holds where the JSON is silent.
DECIDES_NUMBERS = {"prescale_gradients": False, "gradient_predivide_factor": 1.0}


class Strategy(Section):
    """How the training state is sharded, in which precision, and where it lives.

    Raises:
        ConfigError: `settings` hold a key that DeepSpeed does not know, a value that it cannot
            use, or a number that the run config owns.
    """

    name: str
    """Name of the file it was read from."""
    settings: Json
    """Content of that file."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_settings(self.settings, self.name)
        return self

    @property
    def stage(self) -> int:
        """Return the stage of ZeRO, 0 to 3."""
        stage: int = section(self.settings, "zero_optimization").get("stage", 0)
        return stage

    @property
    def dtype(self) -> Dtype:
        """Return the dtype of the parameters in the forward; masters are always fp32."""
        return _dtype(self.settings)

    @property
    def gradient_dtype(self) -> Dtype:
        """Return the dtype in which gradients add up between micro steps."""
        dtype: Dtype = section(self.settings, "data_types").get("grad_accum_dtype") or self.dtype
        return dtype

    @property
    def reduce_dtype(self) -> Dtype:
        """Return the dtype in which gradients are added up over the ranks."""
        dtype: Dtype = self.settings.get("communication_data_type") or self.dtype
        return dtype

    @property
    def optimizer_device(self) -> Device:
        """Return where masters, moments and gradients live."""
        return _device(section(self.settings, "zero_optimization"), "offload_optimizer")

    @property
    def parameter_device(self) -> Device:
        """Return where sharded parameters live that are not in use."""
        return _device(section(self.settings, "zero_optimization"), "offload_param")

    @property
    def offload(self) -> bool:
        """Whether a part of the state lives somewhere else than the computation."""
        return self.optimizer_device != "none" or self.parameter_device != "none"

    @property
    def replaces_optimizer(self) -> bool:
        """Whether DeepSpeed updates a part of the masters by an Adam of its own."""
        return _replaces_optimizer(section(self.settings, "zero_optimization"))

    @property
    def hides_state(self) -> bool:
        """Whether a part of the masters and moments is where only DeepSpeed reaches it."""
        return hides_state(self.settings)

    @property
    def lean(self) -> bool:
        """Whether it gives up speed or precision to save memory."""
        return self.offload or (self.dtype != "fp32" and self.gradient_dtype == self.dtype)

    @property
    def precision(self) -> Json:
        """Return what of it decides the numbers of a run; all else decides how they are found."""
        decisive: Json = {
            key: type(default)(self.settings[key])
            for key, default in DECIDES_NUMBERS.items()
            if self.settings.get(key, default) != default
        }
        if self.dtype == "fp16":
            decisive["fp16"] = self.settings["fp16"]
        if self.reduce_dtype != "fp32":
            decisive["reduced"] = self.reduce_dtype
        return {"dtype": self.dtype, "gradients": self.gradient_dtype, **decisive}


def strategy_names() -> list[str]:
    """Return the names of the strategies that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def read_strategy(name_or_path: str) -> Strategy:
    """Read a strategy by its name in deepspeed_configs/ or from a JSON file.

    Raises:
        ConfigError: no such file, a key DeepSpeed does not know, a number the run config owns.
    """
    if Path(name_or_path).suffix == ".json":
        return _read(Path(name_or_path))
    return _shipped(name_or_path)


@cache
def _shipped(name: str) -> Strategy:
    if name not in (known := strategy_names()):
        raise ConfigError(
            f"engine.deepspeed={name!r} is not in deepspeed_configs/{nearest(name, known)}; give "
            f"a .json file or one of: {', '.join(known)}"
        )
    return _read(FOLDER / f"{name}.json").model_copy(update={"name": name})


def _read(path: Path) -> Strategy:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read DeepSpeed config {path}: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"DeepSpeed config {path} must hold an object")
    _check_settings(settings, str(path))
    return Strategy(name=path.name, settings=settings)


def _unique_keys(pairs: list[tuple[str, Any]]) -> Json:
    keys = [key for key, _ in pairs]
    repeated = {key for key in keys if keys.count(key) > 1}
    if repeated:
        raise ValueError(f"key {min(repeated)!r} appears twice")
    return {key: value for key, value in pairs if value is not None}  # null: not set


def hides_state(settings: Json) -> bool:
    """Return whether a part of the masters and moments is where only DeepSpeed reaches it.

    Args:
        settings: What DeepSpeed gets.
    """
    zero = section(settings, "zero_optimization")
    on_disk = any(_device(zero, offload) == "nvme" for offload in OFFLOADS)
    return on_disk or _replaces_optimizer(zero)


def section(settings: Json, dotted: str) -> Any:  # noqa: ANN401 - JSON
    """Return what the settings hold under a dotted key; an empty object where that is nothing."""
    content: Any = settings
    for key in dotted.split("."):
        content = content.get(key, {})
    return content


def _check_settings(settings: Json, where: str) -> None:
    """Refuse settings that DeepSpeed would refuse later, ignore, or use to ill effect.

    Args:
        settings: The content of the JSON.
        where: Its name or path, for the sentence.
    """
    _check_keys(settings, where)
    if len(_half_precisions(settings)) > 1:
        raise ConfigError(f"{where}: bf16 and fp16 are both enabled; enable one")
    dtype = _dtype(settings)
    for name, key in NEEDED_TO_SKIP:
        if section(settings, name).get(key, True) is not True:
            raise ConfigError(
                f"{where}: remove {name}.{key}: a step whose gradient is not finite must be found"
            )
    _check_zero(section(settings, "zero_optimization"), dtype, where)


def _check_zero(zero: Json, dtype: Dtype, where: str) -> None:
    for offload in OFFLOADS:
        if (device := _device(zero, offload)) not in get_args(Device):
            raise ConfigError(
                f"{where}: zero_optimization.{offload}.device={device!r} is not one of "
                f"{', '.join(get_args(Device))}"
            )
    stage = zero.get("stage", 0)
    if stage not in range(4):
        raise ConfigError(f"{where}: zero_optimization.stage={stage!r} is not 0, 1, 2 or 3")
    if stage == 0 and dtype != "fp32":
        raise ConfigError(f"{where}: {dtype} needs fp32 masters, which stage 0 lacks; use stage 1")
    size = zero.get("allgather_bucket_size", AUTO)
    if stage in (1, 2) and isinstance(size, int) and size % BUCKET_MULTIPLE:
        raise ConfigError(
            f"{where}: zero_optimization.allgather_bucket_size={size} is not a multiple "
            f"of {BUCKET_MULTIPLE}, as DeepSpeed demands; write {size + 1}"
        )


def _check_keys(settings: Json, where: str) -> None:
    for key, value in settings.items():
        if key in REFUSED_SECTIONS:
            raise ConfigError(f"{where}: remove {key!r}: {REFUSED_SECTIONS[key]}")
        if key in OWNED_BY_RUN and value != AUTO:
            raise ConfigError(
                f"{where}: {key}={value!r} is owned by {OWNED_BY_RUN[key]} in the run config; "
                f'write "auto"'
            )
    _check_known(settings, TOP_LEVEL_KEYS, "", where)
    for name, known in SECTION_KEYS.items():
        content = section(settings, name)
        if not isinstance(content, dict):
            raise ConfigError(f"{where}: {name} must hold an object, not {content!r}")
        _check_known(content, known, f"{name}.", where)


def _check_known(content: Json, known: frozenset[str], prefix: str, where: str) -> None:
    for key, value in content.items():
        if key not in known:
            hint = nearest(key, known, prefix.removesuffix("."))
            raise ConfigError(f"{where}: DeepSpeed has no key {prefix + key!r}{hint}")
        if (expected := expected_instead(key, value)) is not None:
            raise ConfigError(f"{where}: {prefix}{key}={value!r} is not {expected}")


def _replaces_optimizer(zero: Json) -> bool:
    offload = section(zero, "offload_optimizer")
    part = offload.get("super_offload", False) or offload.get("ratio", 1) < 1
    return bool(part or "zenflow" in zero)


def _device(zero: Json, offload: str) -> Device:
    device: Device = section(zero, offload).get("device", "none")
    return device


def _dtype(settings: Json) -> Dtype:
    return next(iter(_half_precisions(settings)), "fp32")


def _half_precisions(settings: Json) -> list[Dtype]:
    halves: tuple[Dtype, ...] = ("bf16", "fp16")
    return [dtype for dtype in halves if section(settings, dtype).get("enabled")]
