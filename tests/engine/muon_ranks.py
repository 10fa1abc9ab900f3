"""What test_muon.py asks of two ranks: zero_ranks.py with Muon, and Muon written out in torch."""

import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from dpot_scale.config.model import ModelConfig
from dpot_scale.engine.runtime import World
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL

sys.path.insert(0, str(Path(__file__).parent))

from zero_ranks import (
    ADAPTER,
    BF16,
    MODEL,
    OF_FRAMES,
    OPTIM,
    SCHEDULE,
    STEPS,
    Result,
    exported,
    initialize_from,
    loss_of,
    resume,
    skip,
    train_afresh,
    windows,
)

MUON = OPTIM.model_copy(update={"kind": "muon"})
# With MLPs whose matrices are three times as long as wide, and wide as long.
WIDE = MODEL.model_copy(update={"mlp_ratio": 3})


# What Muon updates of a block: all weights but those of norms.
MATRICES = (
    *("filter.w1", "filter.w2", "mlp.0.weight", "mlp.2.weight"),
    *("query.weight", "key.weight", "value.weight", "space.output.weight", "time.output.weight"),
    *("spectral.weight", "pointwise.weight"),
)


def is_matrix(name: str) -> bool:
    """Whether Muon updates it."""
    return name.endswith(MATRICES)


def matrices_of(name: str, tensor: torch.Tensor) -> list[torch.Tensor]:
    """Views of the matrices that a parameter is: by its name, and one by one."""
    if ".filter." in name or ".spectral." in name:
        return list(tensor.flatten(0, -3))
    return [tensor.flatten(1)]  # a view, of a 1x1 convolution too


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """The orthogonal factor of a matrix as the published iteration finds it."""
    x = matrix / matrix.norm().clamp(min=1e-30)  # that of an FNO's mean has no imaginary part
    for _ in range(5):
        product = x @ x.T
        x = 3.4445 * x - 4.7750 * product @ x + 2.0315 * product @ product @ x
    return x * max(1, len(matrix) / matrix.shape[1]) ** 0.5


@cache
def train_plain(model_config: ModelConfig) -> Result:
    """Train with nothing but torch in this process."""
    torch.manual_seed(0)
    model = family_of(model_config).network(model_config, KEEP_ALL, "float32")
    named = dict(model.named_parameters())
    others = [parameter for name, parameter in named.items() if not is_matrix(name)]
    adam = torch.optim.Adam(others, eps=OPTIM.eps, weight_decay=OPTIM.weight_decay, foreach=False)
    means = {name: torch.zeros_like(p) for name, p in named.items() if is_matrix(name)}
    losses, norms = [], []
    for step in range(STEPS):
        rates = SCHEDULE.at(step)
        adam.param_groups[0].update(lr=rates.lr, betas=rates.betas)
        model.zero_grad()
        loss = loss_of(model, windows(step), unroll=1)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.gradient_clipping)
        adam.step()
        for name, mean in means.items():
            weight = named[name].detach()
            mean += 0.05 * (named[name].grad - mean)
            update = 0.05 * named[name].grad + 0.95 * mean
            weight *= 1 - rates.muon_lr * OPTIM.weight_decay
            for one, of_it in zip(
                matrices_of(name, weight), matrices_of(name, update), strict=True
            ):
                one -= rates.muon_lr * newton_schulz(of_it)
        losses.append(loss.item())
        norms.append(norm.item())
    return {"losses": losses, "norms": norms, "weights": model.state_dict()}


# Of the matrices, which all are in the blocks, none stays as it is; but the rates of some differ.
PARTS = {"components": {"blocks": {"lr": 0.5}, "head": "freeze", "output": {"lr": 0.25}}}


def plain(model: ModelConfig, *_: object) -> Result:
    return train_plain(model)


FP32 = {f"zero{stage}": f"zero{stage}_fp32" for stage in range(4)}
ALL = {**FP32, **{name: name for name in (*BF16, "zero2_bf16_offload")}}
AFRESH = partial(train_afresh, optim=MUON)
STAGE_3 = partial(AFRESH, deepspeed="zero3_fp32")
MODELS = {"square": MODEL, "wide": WIDE, **OF_FRAMES}

CASES: dict[str, Callable[[World, Path], Any]] = {
    **{f"plain_{name}": partial(plain, model) for name, model in MODELS.items()},
    **{
        f"{stage}_{name}": partial(AFRESH, deepspeed=json, model=model)
        for stage, json in FP32.items()
        for name, model in MODELS.items()
    },
    **{
        f"{stage}_accumulated": partial(AFRESH, deepspeed=json, micro_batch=1)
        for stage, json in FP32.items()
    },
    "zero3_recomputed": partial(STAGE_3, activation_checkpointing="full"),
    "zero3_compiled": partial(STAGE_3, compile=True),
    "zero3_offloaded": partial(AFRESH, deepspeed="zero3_fp32_offload"),
    "zero3_gpu_sizes": partial(AFRESH, deepspeed="zero3_gpu_sizes"),
    **{name: partial(AFRESH, deepspeed=name) for name in ALL if name not in FP32},
    **{
        f"{name}_{what}": partial(case, deepspeed=json, optim=MUON)
        for name, json in ALL.items()
        for what, case in (("skip", skip), ("resume", resume), ("exported", exported))
    },
    **{
        f"{name}_parts_{what}": partial(case, deepspeed=json, optim=MUON, start=PARTS)
        for name, json in ALL.items()
        for what, case in (("trained", train_afresh), ("resume", resume), ("exported", exported))
    },
    # Without a matrix that trains.
    **{
        f"{name}_adapter_{what}": partial(case, deepspeed=json, optim=MUON, start=ADAPTER)
        for name, json in ALL.items()
        for what, case in (("trained", train_afresh), ("resume", resume))
    },
    **{
        f"{stage}_started": partial(initialize_from, deepspeed=json, optim=MUON)
        for stage, json in FP32.items()
    },
}


def run_case(world: World, name: str, folder: str) -> Any:
    return CASES[name](world, Path(folder))
