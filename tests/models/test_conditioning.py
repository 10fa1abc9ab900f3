"""What a model is told beside its frames."""

import math

import pytest
import torch

from dpot_scale.errors import DataError
from dpot_scale.models.conditioning import FREQUENCIES, Conditioning, features_of
from dpot_scale.models.counting import CONDITION_FEATURES
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT

NAN = math.nan
TOLD: dict[str, object] = {"conditioning": ("dt", "parameters"), "parameters": ("viscosity",)}
FRAMES = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
CONDITIONS = torch.tensor([[0.1, 1e-3], [0.2, NAN]])


def a_network(**values: object) -> DPOT:
    described: dict[str, object] = {"width": 16, "depth": 1, "heads": 2, "out_layer_dim": 4}
    described |= {"grid": 8, "patch": 4, "channels": 2, "history": 3}
    torch.manual_seed(0)
    return DPOT(DPOTConfig.model_validate(described | values))


def trained(**values: object) -> DPOT:
    network = a_network(**TOLD, **values)
    assert network.conditioning is not None
    torch.nn.init.normal_(network.conditioning.modulation.weight, std=0.3)
    torch.nn.init.normal_(network.conditioning.modulation.bias, std=0.3)
    return network


def test_the_features_are_those_of_the_formula() -> None:
    value = 3.7e-4
    (found, unknown) = features_of(torch.tensor([[value], [NAN]])).squeeze(1)
    log = math.asinh(value / 1e-6)
    waves = [wave(rate * log) for rate in FREQUENCIES for wave in (math.sin, math.cos)]
    torch.testing.assert_close(found, torch.tensor([1.0, log / 16, *waves]))
    assert len(found) == CONDITION_FEATURES
    assert not unknown.any()


def test_numbers_of_every_size_and_sign_are_told_apart_in_half_precision() -> None:
    values = [0.0, *(sign * 10.0**power for power in range(-6, 7) for sign in (-1, 1))]
    values += [value * 1.02 for value in values if value]
    features = features_of(torch.tensor(values)[:, None]).squeeze(1)
    assert features.isfinite().all()
    assert features.abs().max() < 2
    assert len(features.bfloat16().unique(dim=0)) == len(values)


@pytest.mark.parametrize("values", [{}, {"normalize": True, "target": "residual"}])
def test_a_fresh_model_forecasts_as_one_without_conditions(values: dict[str, object]) -> None:
    """With the same weights in all else."""
    told, plain = a_network(**TOLD, **values), a_network(**values)
    assert torch.equal(told(FRAMES, CONDITIONS).frames, plain(FRAMES).frames)
    state = told.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(state.pop(name), tensor), name
    assert {name.partition(".")[0] for name in state} == {"conditioning"}


def test_each_window_is_told_its_own() -> None:
    network = trained()
    both = network(FRAMES, CONDITIONS).frames
    for window in range(2):
        alone = network(FRAMES[window : window + 1], CONDITIONS[window : window + 1]).frames
        torch.testing.assert_close(both[window : window + 1], alone, rtol=1e-4, atol=1e-5)
    others = network(FRAMES, CONDITIONS.flip(0)).frames
    assert not torch.allclose(both[0], others[0], atol=1e-3)
    assert not torch.allclose(both[1], others[1], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_weights_learn_also_where_something_is_unknown(dtype: torch.dtype) -> None:
    network = trained().to(dtype)
    network(FRAMES, CONDITIONS).frames.square().sum().backward()
    assert network.conditioning is not None
    for parameter in network.conditioning.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_the_embedding_scales_and_shifts_each_channel_in_2d_and_3d() -> None:
    torch.manual_seed(0)
    embedding = Conditioning(2, 16)
    torch.nn.init.normal_(embedding.modulation.weight)
    for space in ((4, 6), (2, 3, 4)):
        z = torch.randn(2, *space, 16)
        zero, one = (
            embedding(torch.zeros_like(z), CONDITIONS),
            embedding(torch.ones_like(z), CONDITIONS),
        )
        torch.testing.assert_close(embedding(z, CONDITIONS), zero + (one - zero) * z)
        assert (zero == zero[:, :1, :1]).all()


@pytest.mark.parametrize("given", [None, CONDITIONS[:1], CONDITIONS[:, :1]])
def test_conditions_of_another_shape_are_refused(given: torch.Tensor | None) -> None:
    with pytest.raises(DataError, match=r"told of each window dt, viscosity: conditions of"):
        a_network(**TOLD)(FRAMES, given)


def test_a_model_without_conditions_takes_none() -> None:
    with pytest.raises(DataError, match=r"told of each window nothing but its frames"):
        a_network()(FRAMES, CONDITIONS)
