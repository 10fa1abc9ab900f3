"""One network on fields of any grid."""

from functools import partial
from typing import Literal

import pytest
import torch
from torch.nn.functional import pad

from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.family import Recompute
from dpot_scale.models.forecaster import Moments
from dpot_scale.models.positions import resized_positions


def a_config(space_dims: int = 2, **values: object) -> DPOTConfig:
    described: dict[str, object] = {"width": 16, "depth": 2, "heads": 2, "out_layer_dim": 4}
    described |= {"space_dims": space_dims, "grid": 16, "patch": 4, "channels": 2, "history": 3}
    return DPOTConfig.model_validate(described | {"modes": 3} | values)


def a_network(config: DPOTConfig) -> DPOT:
    torch.manual_seed(0)
    return DPOT(config).eval()


def frames_on(*space: int, history: int = 3, channels: int = 2) -> torch.Tensor:
    return torch.randn(2, history, channels, *space, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("modes_kept", ["positive", "symmetric"])
@pytest.mark.parametrize(
    ("own", "space"),
    [
        (16, (24, 40)),
        ((24, 40), (16, 16)),
        (16, (8, 8)),
        (16, (8, 16, 12)),
        ((8, 16, 12), (16,) * 3),
    ],
)
def test_on_another_grid_it_is_the_model_of_that_grid_with_its_positions_interpolated(
    own: object, space: tuple[int, ...], modes_kept: str
) -> None:
    network = a_network(a_config(len(space), grid=own, modes_kept=modes_kept))
    there = DPOT(a_config(len(space), grid=space, modes_kept=modes_kept))
    state = network.state_dict()
    state["pos_embed"] = resized_positions(state["pos_embed"], there.config.latent_grid)
    there.load_state_dict(state)
    frames = frames_on(*space)
    assert torch.equal(network(frames).frames, there(frames).frames)
    assert network(frames).frames.shape == (2, 1, 2, *space)


@pytest.mark.parametrize("skip_frames", [0, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_no_multiple_of_the_patch_goes_on_by_its_edge(
    normalize: bool, skip_frames: int
) -> None:
    config = a_config(skip_frames=skip_frames, normalize=normalize, target="residual")
    network, frames = a_network(config), frames_on(13, 18)
    torch.nn.init.normal_(network.out_layer[-1].weight)
    found = network(frames).frames
    assert found.shape == (2, 1, 2, 13, 18)
    # The statistics are of the points that there are.
    mean, std = frames.mean((1, 3, 4), keepdim=True), frames.std((1, 3, 4), keepdim=True) + 1e-6
    seen = (frames - mean) / std if normalize else frames
    padded = pad(seen.flatten(0, 1), (0, 2, 0, 3), mode="replicate").unflatten(0, (2, 3))
    whole = network.predict(padded, Moments(mean, std) if normalize else None).frames
    torch.testing.assert_close(
        found, whole[..., :13, :18] * std + frames[:, -1:], rtol=1e-4, atol=1e-4
    )


def test_a_grid_smaller_than_a_patch_is_padded_to_one() -> None:
    assert a_network(a_config())(frames_on(1, 3)).frames.shape == (2, 1, 2, 1, 3)


def test_padding_in_3d() -> None:
    network = a_network(a_config(3, grid=8))
    assert network(frames_on(5, 8, 11)).frames.shape == (2, 1, 2, 5, 8, 11)


@pytest.mark.parametrize(("history", "horizon", "channels"), [(4, 1, 6), (16, 4, 6)])
def test_any_history_horizon_and_number_of_channels(
    history: int, horizon: int, channels: int
) -> None:
    config = a_config(history=history, horizon=horizon, channels=channels, grid=(12, 20))
    frames = frames_on(12, 20, history=history, channels=channels)
    assert a_network(config)(frames).frames.shape == (2, horizon, channels, 12, 20)


@pytest.mark.parametrize("again", ["none", "full", "selective"])
def test_every_parameter_learns_on_every_grid(
    again: Literal["none", "full", "selective"],
) -> None:
    torch.manual_seed(0)
    config = a_config(modes_kept="symmetric")
    network = DPOT(config, recompute=Recompute(blocks=again))
    for space in ((16, 16), (12, 25)):
        network.zero_grad()
        forecast = network(frames_on(*space))
        assert forecast.logits is not None
        (forecast.frames.square().mean() + forecast.logits.square().mean()).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any(), name


def test_a_compiled_network_takes_several_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    network = a_network(a_config())
    expected = [network(frames_on(*space)).frames for space in ((16, 16), (24, 16), (160, 8))]
    network.compile_blocks()
    torch._dynamo.utils.counters.clear()
    for space, frames in zip(((16, 16), (24, 16), (160, 8)), expected, strict=True):
        torch.testing.assert_close(network(frames_on(*space)).frames, frames, rtol=1e-4, atol=1e-5)
    breaks = torch._dynamo.utils.counters["graph_break"]
    assert not breaks, "the compiled code falls into parts"
    torch.compiler.reset()  # or other tests find their sizes taken for variable
