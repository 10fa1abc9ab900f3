"""Starts the engine that a run trains with."""

from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import Json
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.fairscale import FairscaleEngine
from dpot_scale.engine.runtime import World
from dpot_scale.engine.strategy import effective_deepspeed_config
from dpot_scale.engine.zero import ZeroEngine


def start_engine(config: RunConfig, world: World, deepspeed_config: Json | None = None) -> Engine:
    """Return the engine that `engine.kind` of a run names. Collective.

    Args:
        config: The run, its micro-batch settled.
        world: The ranks.
        deepspeed_config: The complete DeepSpeed config; None to derive it here.

    Raises:
        ConfigError: the config is wrong, or this machine lacks what it needs.
    """
    if config.engine.kind == "fairscale":
        return FairscaleEngine(config, world)
    if deepspeed_config is None:
        on_gpu = world.device.type == "cuda"
        deepspeed_config = effective_deepspeed_config(config, world.world_size, on_gpu=on_gpu)
    return ZeroEngine(config, deepspeed_config, world)
