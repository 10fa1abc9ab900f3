"""Numbers that follow the size or the length of a point, and what a transfer over widths keeps."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import avg_pool2d

from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.config.optim import WIDTH_POWER
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.engine.muon import as_stack, orthogonal, split_matrices
from dpot_scale.errors import ConfigError
from dpot_scale.models.families import count_parameters, family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.scaling.design import Point, points_of
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.plan_text import plan_table

MODELS = "ladder: {a: {width: 64}, b: {width: 256}}"


def ruled(rules: str, *entries: str) -> SweepConfig:
    design = json.dumps([yaml.safe_load(entry) for entry in (MODELS, *entries)])
    return load_sweep("quickstart", [f"design={design}", f"rules={rules}", "windows=[960]"])


def by_width(sweep: SweepConfig) -> dict[int | None, Point]:
    return {point.run.model.own_width(): point for point in points_of(sweep)}


def test_rates_of_one_width_are_transferred_as_in_any_run() -> None:
    points = by_width(ruled("{lr: {width_transfer: {at: 256, lr: 3e-3, muon_lr: 0.01}}}"))
    for width, point in points.items():
        assert width is not None
        assert point.run.optim.reference_width == 256
        factor = (256 / width) ** WIDTH_POWER
        assert point.run.settled_optim.lr == pytest.approx(3e-3 * factor)
        assert point.run.settled_optim.muon_lr == pytest.approx(0.01 * factor)


def test_a_grid_of_rates_is_one_of_those_at_the_reference_width() -> None:
    sweep = ruled(
        "{lr: {width_transfer: {at: 256, lr: 3e-3}}}", "grid: {run.optim.lr: [1e-3, 2e-3]}"
    )
    found = {(p.run.model.own_width(), p.run.settled_optim.lr) for p in points_of(sweep)}
    for width, lr in found:
        assert width is not None
        assert lr * (width / 256) ** WIDTH_POWER in (pytest.approx(1e-3), pytest.approx(2e-3))
    assert len(found) == 4


@pytest.mark.parametrize("of", ["width", "parameters", "windows"])
def test_a_power_law_is_followed(of: str) -> None:
    rule = f"{{of: {of}, at: 100, value: 0.1, power: -0.5}}"
    for point in points_of(ruled(f"{{weight_decay: {rule}, lr: {{power: {rule}}}}}")):
        followed = {
            "width": point.run.model.own_width(),
            "parameters": count_parameters(point.run.model).total,
            "windows": 960,
        }[of]
        assert followed is not None
        expected = 0.1 * (followed / 100) ** -0.5
        assert point.run.optim.weight_decay == pytest.approx(expected)
        assert point.run.optim.reference_for("dpot") == 128
        assert point.run.settled_optim.lr == pytest.approx(expected), "not transferred once more"


def test_a_batch_is_what_workers_share_and_lengths_are_rounded_to_it() -> None:
    sweep = ruled("{batch: {of: width, at: 64, value: 8, power: 1}}")
    batches = {w: (p.run.batch.global_batch, p.run.windows) for w, p in by_width(sweep).items()}
    assert batches == {64: (8, 960), 256: (32, 960)}
    sweep = ruled("{batch: {of: windows, at: 960, value: 50, power: 0.5}}")
    for point in points_of(sweep):
        share = sweep.resources.workers * point.run.batch.settled_micro_batch
        assert point.run.batch.global_batch == 48 == 6 * share
        assert point.run.windows == 960


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ("{lr: {}}", "rules.lr: give one of width_transfer, power and probe"),
        ("{lr: {width_transfer: {at: 0}}}", "rules.lr.width_transfer.at=0: must be at least 1"),
        (
            "{weight_decay: {of: widht, at: 1, value: 1, power: 1}}",
            "rules.weight_decay.of='widht': must be 'width', 'parameters' or 'windows'",
        ),
    ],
)
def test_a_mistake_in_a_rule_is_one_sentence(rules: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ruled(rules)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "entry", "field"),
    [
        ("{lr: {power: %s}}", "grid: {run.optim.lr: [1e-3, 3e-3]}", "run.optim.lr"),
        ("{batch: %s}", "ablation: {b: {run.seed: 1, run.batch.global_batch: 8}}",
         "run.batch.global_batch"),
        ("{weight_decay: %s}", "grid: {run.optim.weight_decay: [0.1]}", "run.optim.weight_decay"),
    ],
)  # fmt: skip
def test_values_that_a_rule_would_replace_are_refused(rules: str, entry: str, field: str) -> None:
    power = "{of: width, at: 64, value: 0.01, power: -0.5}"
    kind = entry.partition(":")[0]
    sentence = f"^design: a rule sets {field}, in place of the values that `{kind}` gives it; "
    with pytest.raises(ConfigError, match=sentence):
        points_of(ruled(rules % power, entry))


def test_the_plan_says_where_a_rule_comes_from() -> None:
    rule = "{of: width, at: 64, value: 0.1, power: -1, source: a search at width 64}"
    sweep = ruled(f"{{weight_decay: {rule}}}")
    text = plan_table(sweep, plan(sweep))
    assert "weight_decay = 0.1 (width / 64)^-1: a search at width 64" in text


def scale_after_training(width: int, recipe: str) -> float:
    """The root mean square of what the last block gives, after some steps of a recipe."""
    settings = [f"model.width={width}", "model.depth=2", "model.grid=32", "model.history=4", recipe]
    run = load_run("quickstart", settings)
    torch.manual_seed(0)
    network = family_of(run.model).network(run.model, KEEP_ALL, "float32")
    found: list[torch.Tensor] = []
    blocks = network.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    blocks[-1].register_forward_hook(lambda *call: found.append(call[-1].detach()))
    noise = torch.randn(8 * 4 * 2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    frames = avg_pool2d(noise, 5, stride=1, padding=2).reshape(8, 4, 2, 32, 32)
    target = torch.roll(frames[:, -1:], 3, dims=-1)
    step = updates(network, run)
    for _ in range(10):
        network.zero_grad()
        (network(frames).frames - target).square().mean().backward()
        step()
    network(frames)
    return float(found[-1].square().mean().sqrt())


def updates(network: nn.Module, run: RunConfig) -> Callable[[], None]:
    """The step of the optimizer of a run, without the flat masters of ZeRO."""
    parameters = dict(network.named_parameters())
    matrices, others = split_matrices(parameters, family_of(run.model))
    optim = run.settled_optim
    of_adam = others if optim.kind == "muon" else list(parameters.values())
    adam = torch.optim.AdamW(of_adam, lr=optim.lr, betas=(0.9, 0.95))
    momenta = {matrix: torch.zeros_like(matrix) for matrix in matrices}

    @torch.no_grad()
    def step() -> None:
        adam.step()
        for matrix, momentum in momenta.items() if optim.kind == "muon" else ():
            assert matrix.grad is not None
            momentum.lerp_(matrix.grad, 1 - optim.muon_momentum)
            stack = matrix.grad.lerp(momentum, optim.muon_momentum).view(as_stack(matrix.shape))
            scale = max(1.0, stack.shape[1] / stack.shape[2]) ** 0.5
            update = orthogonal(stack, torch.float32).view_as(matrix)
            matrix.sub_(update, alpha=optim.muon_lr * scale)

    return step


def test_the_scale_of_activations_is_flat_over_width() -> None:
    """The coordinate test of a transfer (Yang et al., Tensor Programs V, 2022, Appendix D.1)."""
    widths = (32, 64, 128, 256)

    def slope(recipe: str) -> float:
        scales = [scale_after_training(width, recipe) for width in widths]
        return float(np.polyfit(np.log(widths), np.log(scales), 1)[0])

    assert abs(slope("optim.reference_width=128")) < 0.1
    # A rate of Adam that suits width 32 alone makes wide models move too far.
    assert slope("optim={kind: adam, lr: 3e-2, reference_width: null}") > 1
