"""What the output of a network means: the target of a model, against its formula in fp64."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpot_scale.config.model import ModelConfig
from dpot_scale.errors import DataError
from dpot_scale.models.forecaster import Forecast, Forecaster, Moments

GRID, HISTORY, HORIZON, CHANNELS = 4, 3, 2, 2


class Network(Forecaster):
    """Gives the weighted sum of its history for every forecast frame, and keeps what it was shown.

    `layer` is its last one.
    """

    def __init__(self, *, normalize: bool = False, space_dims: int = 2, target: str) -> None:
        described = {"family": "none", "grid": GRID, "channels": CHANNELS, "space_dims": space_dims}
        described |= {"history": HISTORY, "horizon": HORIZON, "target": target}
        super().__init__(ModelConfig.model_validate(described), normalize=normalize)
        self.layer = nn.Linear(HISTORY, HORIZON)
        self.ends_in(self.layer)

    def predict(self, frames_BTCs: Tensor, moments: Moments | None) -> Forecast:
        self.seen, self.moments = frames_BTCs, moments
        dtype = self.layer.weight.dtype
        frames = self.layer(frames_BTCs.to(dtype).movedim(1, -1)).movedim(-1, 1)
        return Forecast(frames.float(), torch.ones(len(frames), 1))


def drawn(target: str, *, normalize: bool = False, space_dims: int = 2) -> Network:
    """A network that has trained for a while."""
    torch.manual_seed(0)
    network = Network(target=target, normalize=normalize, space_dims=space_dims)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1, 1)
    return network


def history(space_dims: int = 2, *, around: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, HISTORY, CHANNELS, *[GRID] * space_dims)
    return around + 0.5 * torch.randn(shape, generator=generator)


def in_fp64(network: Network, frames: Tensor) -> NDArray[np.float64]:
    """The formula, with numpy."""
    weight, bias = (value.detach().double().numpy() for value in network.layer.parameters())
    x = frames.double().numpy()
    over = (1, *range(3, x.ndim))
    mean, std = x.mean(over, keepdims=True), x.std(over, keepdims=True, ddof=1) + 1e-6
    standardised = network.moments is not None
    seen = (x - mean) / std if standardised else x
    output = np.einsum("ht,bt...->bh...", weight, seen) + bias.reshape(1, -1, *[1] * (x.ndim - 2))
    if network.config.target == "residual":
        return np.asarray(x[:, -1:] + std * output)
    return np.asarray(mean + std * output if standardised else output)


@pytest.mark.parametrize("space_dims", [2, 3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("target", ["frame", "residual"])
def test_a_forecast_is_that_of_the_formula(target: str, normalize: bool, space_dims: int) -> None:
    network, frames = drawn(target, normalize=normalize, space_dims=space_dims), history(space_dims)
    found = network(frames)
    np.testing.assert_allclose(
        found.frames.detach().numpy(), in_fp64(network, frames), rtol=1e-6, atol=1e-6
    )
    assert found.frames.shape == (2, HORIZON, CHANNELS, *[GRID] * space_dims)
    assert found.logits is not None
    assert (network.moments is not None) == normalize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_fresh_residual_is_the_last_frame(normalize: bool, dtype: torch.dtype) -> None:
    """In every digit, though half precision knows none of these values."""
    network = Network(target="residual", normalize=normalize).to(dtype)
    frames = history(around=300.0)
    found = network(frames).frames
    assert found.dtype == torch.float32
    assert torch.equal(found, frames[:, -1:].expand_as(found))
    assert torch.equal(frames, frames.to(dtype).float()) == (dtype == torch.float32)


def test_a_fresh_network_of_frames_is_drawn() -> None:
    assert all(bool(value.any()) for value in Network(target="frame").parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1.0, -7.0])
def test_a_field_that_does_not_change_stays_what_it_is(value: float, dtype: torch.dtype) -> None:
    """As padding, and masks without an obstacle: whatever the network says of it, in any dtype."""
    network, frames = drawn("residual", normalize=True).to(dtype), history()
    frames[:, :, 1] = value
    found = network(frames).frames
    torch.testing.assert_close(
        found[:, :, 1], torch.full_like(found[:, :, 1], value), rtol=0, atol=1e-5
    )
    # The other field knows nothing of it.
    frames[:, :, 1] = 5.0
    assert torch.equal(network(frames).frames[:, :, 0], found[:, :, 0])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("start", [Network, drawn])
def test_gradients_are_finite_where_a_field_is_constant(start: object, normalize: bool) -> None:
    """Through two forwards: the second one's statistics depend on the first forecast."""
    assert callable(start)
    network: Network = start(target="residual", normalize=normalize)
    frames = history()
    frames[:, :, 1] = 1.0
    first = network(frames).frames
    second = network(torch.cat([frames[:, HORIZON:], first], dim=1)).frames
    (first.square().sum() + second.square().sum()).backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)


def test_the_scale_of_a_window_is_its_own() -> None:
    """Windows in a batch know nothing of each other, and a field may have any unit."""
    network, frames = drawn("residual", normalize=True), history()
    both = torch.cat([frames, 1000 * frames - 7])
    torch.testing.assert_close(network(both).frames[:2], network(frames).frames)
    expected = 1000 * network(frames).frames - 7
    torch.testing.assert_close(network(both).frames[2:], expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("target", ["frame", "residual"])
def test_frames_of_another_shape_are_refused(target: str) -> None:
    with pytest.raises(DataError, match=r"\(B, 3, 2, X, Y\), got \(2, 2, 2, 4, 4\)"):
        Network(target=target)(history()[:, 1:])
    for frames in (history()[:, :, 1:], history()[..., 0], history(3), history()[..., :0]):
        with pytest.raises(DataError, match=r"the model takes frames of shape"):
            Network(target=target)(frames)


def test_frames_of_every_grid_are_taken() -> None:
    assert Network(target="residual")(history().repeat(1, 1, 1, 2, 3)).frames.shape[-2:] == (8, 12)
