"""The network of an FNO: what reaches a forecast, and grids of every size."""

import pytest
import torch
from torch import Tensor

from dpot_scale.models.fno.config import FNOConfig
from dpot_scale.models.fno.network import FNO

SMALL = {"width": 8, "depth": 2, "modes": 4, "grid": 16, "channels": 2, "history": 3}


def described(**changes: object) -> FNOConfig:
    return FNOConfig.model_validate(SMALL | changes)


def drawn(model: FNOConfig) -> FNO:
    torch.manual_seed(0)
    return FNO(model).eval()


def frames(model: FNOConfig, *space: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, model.history, model.channels, *(space or model.space))
    return torch.randn(shape, generator=generator)


def test_every_frame_and_point_reaches_the_forecast() -> None:
    model = described()
    given = frames(model).requires_grad_()
    (reached,) = torch.autograd.grad(drawn(model)(given).frames[:, :, :, 3, 3].sum(), given)
    assert bool(reached.ne(0).all())


@pytest.mark.parametrize("space", [(32, 32), (8, 24), (13, 18), (3, 5)])
def test_frames_of_every_grid_are_taken(space: tuple[int, int]) -> None:
    model = described()
    found = drawn(model)(frames(model, *space)).frames
    assert found.shape == (2, 1, 2, *space)
    assert bool(found.isfinite().all())


def test_a_grid_of_three_axes() -> None:
    model = described(space_dims=3, grid=[8, 10, 6])
    assert drawn(model)(frames(model)).frames.shape == (2, 1, 2, 8, 10, 6)


def test_the_scale_of_a_window_reaches_the_network() -> None:
    """The fields are standardised, and their mean and deviation are told beside them."""
    model = described()
    network, given = drawn(model), frames(model)
    changes = [(network(scale * given).frames / scale) for scale in (1.0, 10.0)]
    assert not torch.allclose(*changes, atol=1e-3)
