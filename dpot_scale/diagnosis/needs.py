"""What a run needs of network and storage so that its devices do not wait for them.

By the functions that price a plan, from the data sheets of the devices.
"""

from dataclasses import dataclass

import torch

from dpot_scale.config.run import RunConfig
from dpot_scale.engine.runtime import World
from dpot_scale.runs.resolved import identify, require_trainable, resolve
from dpot_scale.scaling.cost import (
    DEVICES,
    UNNAMED_CPU,
    UNNAMED_GPU,
    DeviceName,
    assumed_speed,
    sent_bytes,
    step_cost,
    window_bytes,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a run needs, in bytes/s."""

    sending: float  # of each rank, for messages as long as computing or the host's launching
    reading: float  # of all ranks together


def needs_of(config: RunConfig, world: World) -> Needs:
    """Return what a run needs on these ranks.

    Args:
        config: A run that is to be trained here, its paths absolute.
        world: The ranks.

    Raises:
        UserError: it cannot be trained here, or not on so many ranks, or its data are not here.
    """
    on_gpu, share = world.device.type == "cuda", config.batch.global_batch // world.world_size
    run = resolve(
        identify(config), world_size=world.world_size, on_gpu=on_gpu, micro_batch=max(1, share)
    )
    require_trainable(run)
    device = _device(world)
    cost = step_cost(run, device, assumed_speed(run, device))
    sent = sent_bytes(
        run.parameters.total,
        config.engine.deepspeed,
        world_size=world.world_size,
        accumulation_steps=run.accumulation_steps,
    )
    read = config.batch.global_batch * window_bytes(config)
    return Needs(sending=sent / max(cost.computing, cost.host), reading=read / cost.seconds)


def _device(world: World) -> DeviceName:
    """Return what the ranks are, by the name of the card."""
    if world.device.type != "cuda":
        return UNNAMED_CPU
    card = torch.cuda.get_device_name(world.device).lower()
    return next((name for name in DEVICES if name in card), UNNAMED_GPU)
