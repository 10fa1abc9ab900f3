"""What trains of a run, and at which multiple of its rates. On two ranks: test_zero.py."""

import pytest
import torch

from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.engine.network import FACTOR, build, freeze_and_group, optimizer_groups
from dpot_scale.models.adapter import is_of_pair
from dpot_scale.models.dpot.family import FAMILY
from dpot_scale.models.families import adapter_parameters, count_parameters, trained_parameters
from dpot_scale.models.forecaster import Forecaster

SMALL = ["model.width=16", "model.depth=2", "model.heads=2", "model.grid=16", "start.source=x"]


def built(*overrides: str) -> tuple[RunConfig, Forecaster]:
    config = load_run("quickstart", [*SMALL, *overrides])
    torch.manual_seed(0)
    return config, build(config, "float32")


def grouped(*overrides: str) -> dict[float, set[str]]:
    config, model = built(*overrides)
    groups = freeze_and_group(dict(model.named_parameters()), FAMILY, config.start)
    found = {group.factor: set(group.parameters) for group in groups}
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == set().union(*found.values())
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counted == trained_parameters(config.model, config.start)
    return found


def test_all_train_at_the_rates_of_the_run() -> None:
    config, model = built()
    groups = freeze_and_group(dict(model.named_parameters()), FAMILY, config.start)
    assert optimizer_groups(groups) == list(model.parameters())


def test_what_is_frozen_is_in_no_group() -> None:
    found = grouped("start.components={blocks: freeze, pos_embed: freeze}")
    assert list(found) == [1.0]
    assert not any(name.startswith(("blocks.", "pos_embed")) for name in found[1.0])


def test_each_rate_is_a_group() -> None:
    config, model = built("start.components={patch_embed: {lr: 3}, output: {lr: 3}, head: redraw}")
    groups = freeze_and_group(dict(model.named_parameters()), FAMILY, config.start)
    assert [group.factor for group in groups] == [1.0, 3.0]
    fast = {name.split(".")[0] for name in groups[1].parameters}
    assert fast == {"patch_embed", "out_layer", "skip"}
    of_optimizer = optimizer_groups(groups)
    assert [group[FACTOR] for group in of_optimizer] == [1.0, 3.0]
    assert sum(len(group["params"]) for group in of_optimizer) == len(list(model.parameters()))


def test_beside_an_adapter_only_pairs_train_and_what_is_said_to() -> None:
    found = grouped("start.adapter={rank: 4}")
    assert list(found) == [1.0]
    assert all(map(is_of_pair, found[1.0]))
    found = grouped("start.adapter={rank: 4}", "start.components={output: {lr: 1}, blocks: reuse}")
    assert {name.split(".")[0] for name in found[1.0]} == {"blocks", "out_layer", "skip"}
    found = grouped("start.adapter={rank: 4}", "start.components={blocks: {lr: 0.5}}")
    assert all(map(is_of_pair, found[1.0]))
    assert not any(map(is_of_pair, found[0.5]))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("ratio", [1, 4])
def test_the_parameters_of_an_adapter_are_as_the_formula_says(dims: int, ratio: int) -> None:
    shape = [f"model.space_dims={dims}", f"model.mlp_ratio={ratio}"]
    config, model = built("start.adapter={rank: 3}", *shape)
    pairs = sum(p.numel() for name, p in model.named_parameters() if is_of_pair(name))
    assert adapter_parameters(config.model, config.start) == pairs
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == pairs + count_parameters(config.model).total


def test_the_first_weights_do_not_depend_on_an_adapter() -> None:
    _, plain = built()
    _, adapted = built("start.adapter={rank: 3}")
    for name, value in plain.state_dict().items():
        assert torch.equal(adapted.state_dict()[name], value), name
