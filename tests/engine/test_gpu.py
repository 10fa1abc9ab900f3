"""On a CUDA device: equal forecasts, and training under several strategies. Else skipped."""

from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import nn

from dpot_scale.config.model import config_class
from dpot_scale.config.optim import OptimConfig
from dpot_scale.engine.matrices import Layout, Piece
from dpot_scale.engine.muon import MATRICES, Muon
from dpot_scale.engine.network import FACTOR
from dpot_scale.engine.runtime import World
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.runs.result import read_result
from dpot_scale.tracking.spool import SPOOL, read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


# Small models of every family.
FAMILIES: dict[str, dict[str, object]] = {
    "dpot": {"size": "debug", "normalize": True},
    "vit": {"width": 32, "depth": 2, "heads": 2, "time_tokens": 2},
    "fno": {"width": 16, "depth": 2},
}


@pytest.mark.parametrize("space_dims", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_forecasts_equal_those_of_the_cpu(family: str, space_dims: int) -> None:
    described = {"family": family, "space_dims": space_dims, "grid": 32, **FAMILIES[family]}
    config = config_class(described).model_validate(described)
    torch.manual_seed(0)
    model = family_of(config).network(config, KEEP_ALL, "float32").eval()
    frames = torch.randn(2, config.history, config.channels, *[32] * space_dims)
    with torch.no_grad():
        expected = model(frames)
        found = model.cuda()(frames.cuda())
    torch.testing.assert_close(found.frames.cpu(), expected.frames, rtol=1e-3, atol=1e-4)
    if expected.logits is not None:
        torch.testing.assert_close(found.logits.cpu(), expected.logits, rtol=1e-3, atol=1e-4)


def test_muon_updates_as_on_the_cpu() -> None:
    """There, matrices of one shape are made orthogonal together."""
    shapes = dict.fromkeys(range(3), (24, 8)) | {3: (2, 3, 5, 5)}
    sizes = [prod(shape) for shape in shapes.values()]
    pieces = [Piece(n, 0, sum(sizes[:n]), size) for n, size in enumerate(sizes)]
    flat = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0))
    found = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        world = World(rank=0, local_rank=0, world_size=1, device=device)
        master, other = nn.Parameter(flat.to(device)), nn.Parameter(torch.zeros(2, device=device))
        groups = [
            {"params": [parameter], FACTOR: 1.0, MATRICES: parameter is master}
            for parameter in (master, other)
        ]
        muon = Muon(groups, OptimConfig(kind="muon"))
        muon.place({master: Layout(shapes=shapes, pieces=[pieces], world=world)})
        master.grad, other.grad = flat.to(device).square(), torch.ones_like(other)
        muon.step()
        found[name] = master.detach().cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "strategy",
    ["zero0_fp32", "zero1_bf16", "zero2_bf16", "zero3_bf16", "zero3_bf16_offload", "zero3_fp16"],
)
def test_training_runs_to_its_end(strategy: str, start: Callable) -> None:
    overrides = [f"engine.deepspeed={strategy}", "engine.activation_checkpointing=full"]
    ended = start(strategy, *overrides, ranks=1).ended()
    assert ended.code == 0, ended.err
    result = read_result(ended.directory)
    assert result is not None
    losses = read_metrics(ended.directory / SPOOL)["train/loss"]
    # Only fp16 may skip its first steps, while it looks for a loss scale.
    assert min(losses) == 1 or strategy == "zero3_fp16"
    assert losses[result.steps] < losses[min(losses)]


@pytest.mark.parametrize("family", ["vit", "fno"])
def test_every_family_trains_compiled_in_bf16(family: str, start: Callable) -> None:
    model = [f"model.family={family}", "model.width=16", "model.depth=2"]
    model += ["model.heads=2", "model.patch=4"] if family == "vit" else ["model.modes=4"]
    engine = ["engine.deepspeed=zero1_bf16", "engine.compile=true"]
    ended = start(family, *model, *engine, ranks=1).ended()
    assert ended.code == 0, ended.err
    losses = read_metrics(ended.directory / SPOOL)["train/loss"]
    assert losses[max(losses)] < losses[min(losses)]
