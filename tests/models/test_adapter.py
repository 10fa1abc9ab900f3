"""Low-rank adapters: what they add, and that a merged model does the same."""

import pytest
import torch

from dpot_scale.models.adapter import Pair, as_stack, is_of_pair, merged, pairs_of
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT


def adapted(space_dims: int = 2, rank: int = 3) -> DPOT:
    """A network whose adapters do something."""
    config = DPOTConfig(
        width=16, depth=2, heads=2, out_layer_dim=4, grid=8, patch=2, channels=2, history=3,
        mlp_ratio=2, space_dims=space_dims,
    )  # fmt: skip
    torch.manual_seed(0)
    model = DPOT(config).eval()
    model.adapt(rank)
    for name, parameter in model.named_parameters():
        if is_of_pair(name):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def plain(model: DPOT) -> DPOT:
    """The network with its adapters merged."""
    state = model.state_dict()
    found = DPOT(model.config).eval()
    found.load_state_dict(
        dict(merged(state.items(), {n: value for n, value in state.items() if is_of_pair(n)}))
    )
    return found


@pytest.mark.parametrize("space_dims", [2, 3])
def test_a_merged_model_forecasts_as_the_adapted_one(space_dims: int) -> None:
    model = adapted(space_dims)
    frames = torch.randn(2, 3, 2, *[8] * space_dims)
    with torch.no_grad():
        found, expected = plain(model)(frames).frames, model(frames).frames
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        model.adapt(3)  # anew, and without effect
        assert (model(frames).frames - expected).abs().max() > 1e-3


def test_a_fresh_adapter_changes_nothing() -> None:
    torch.manual_seed(0)
    model = DPOT(adapted().config).eval()
    frames = torch.randn(2, 3, 2, 8, 8)
    with torch.no_grad():
        before = model(frames).frames
        model.adapt(2)
        assert torch.equal(model(frames).frames, before)


def test_the_gradient_of_a_pair_is_that_of_the_product() -> None:
    model = adapted()
    merged_model = plain(model)
    frames = torch.randn(2, 3, 2, 8, 8)
    for one in (model, merged_model):
        one(frames).frames.square().sum().backward()
    of_adapted, of_plain = (dict(one.named_parameters()) for one in (model, merged_model))
    for matrix, (up, down) in pairs_of(of_adapted).items():
        whole = of_plain[matrix].grad.view(as_stack(of_plain[matrix].shape))
        expected = whole @ of_adapted[down].mT
        torch.testing.assert_close(of_adapted[up].grad, expected, rtol=1e-4, atol=1e-4)
        expected = of_adapted[up].mT @ whole
        torch.testing.assert_close(of_adapted[down].grad, expected, rtol=1e-4, atol=1e-4)


def test_frozen_matrices_get_no_gradient() -> None:
    model = adapted()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_of_pair(name))
    model(torch.randn(2, 3, 2, 8, 8)).frames.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == is_of_pair(name), name


def test_pairs_belong_to_the_matrices_of_blocks() -> None:
    names = dict(adapted().named_parameters())
    pairs = pairs_of(names)
    assert len(pairs) == 2 * 4
    assert {name.split(".", 2)[2] for name in pairs} == {
        "filter.w1",
        "filter.w2",
        "mlp.0.weight",
        "mlp.2.weight",
    }
    assert set(pairs) <= set(names)
    of_pairs = {part for parts in pairs.values() for part in parts}
    assert of_pairs == {name for name in names if is_of_pair(name)}


def test_a_pair_has_the_rank_that_it_is_given() -> None:
    pair = Pair((2, 3, 5, 5), rank=2)
    torch.nn.init.normal_(pair.up)
    assert pair().shape == (2, 3, 5, 5)
    assert torch.linalg.matrix_rank(pair()).unique().tolist() == [2]
    assert sum(p.numel() for p in pair.parameters()) == 6 * 2 * (5 + 5)
