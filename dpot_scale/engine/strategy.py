"""The complete config that DeepSpeed gets: how to shard, and what the run and the model decide.

No torch here, so plans and memory estimates stay cheap.
"""

import copy

from dpot_scale.config.deepspeed_keys import AUTO
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import Json
from dpot_scale.engine.buffers import deepspeed_sizes, fit_buffers
from dpot_scale.errors import ConfigError
from dpot_scale.models.families import family_of, footprint_of


def effective_deepspeed_config(config: RunConfig, world_size: int, *, on_gpu: bool) -> Json:
    """Return the complete config DeepSpeed gets: the strategy, and what the run and model decide.

    Raises:
        ConfigError: the strategy is invalid, or the batch does not divide.
    """
    strategy = config.engine.deepspeed
    # DeepSpeed's throughput timer would wait for the device twice in every micro step.
    effective: Json = {"timers": {"throughput": {"enabled": False}}}
    effective |= copy.deepcopy(strategy.settings) | {
        "train_batch_size": config.batch.global_batch,
        "train_micro_batch_size_per_gpu": config.batch.settled_micro_batch,
        "gradient_accumulation_steps": config.batch.accumulation_steps(world_size),
        "gradient_clipping": config.optim.gradient_clipping,
    }
    is_ours = config.optim.kind == "muon"  # and DeepSpeed gets it as an object
    if is_ours:
        effective["zero_allow_untested_optimizer"] = True
    else:
        from_torch = not (on_gpu and strategy.offload)
        effective["optimizer"] = _adam(config.settled_optim, from_torch=from_torch)
    if strategy.offload and (is_ours or not on_gpu):
        effective["zero_force_ds_cpu_optimizer"] = False  # torch's is as fast, and is there
    zero = effective.setdefault("zero_optimization", {"stage": 0})
    buffers = fit_buffers(footprint_of(config.model, config.engine), on_gpu=on_gpu)
    fitted = deepspeed_sizes(buffers, strategy.stage)
    # What the JSON says about these tunes how to shard, so it stands.
    zero |= {key: value for key, value in fitted.items() if zero.get(key, AUTO) == AUTO}
    if unfitted := [key for key, value in zero.items() if value == AUTO]:
        raise ConfigError(
            f'{strategy.name}: zero_optimization.{unfitted[0]} cannot be "auto" at stage '
            f"{strategy.stage}: remove it or write a number"
        )
    if config.engine.compile and strategy.stage == 3:
        # A leaf module is gathered as a whole, before and after it runs, so that no hook of
        # DeepSpeed breaks up the compiled code.
        zero.setdefault("leaf_module", {"classes": [family_of(config.model).block]})
    return effective


def _adam(optim: OptimConfig, *, from_torch: bool) -> Json:
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
