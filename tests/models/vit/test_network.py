"""The network of a ViT: attention in space and time, grids of every size."""

import pytest
import torch
from torch import Tensor, nn

from dpot_scale.models.forecaster import Moments
from dpot_scale.models.vit.config import ViTConfig
from dpot_scale.models.vit.network import Attention, Block, ViT

SMALL = {"width": 24, "heads": 3, "depth": 2, "patch": 4, "grid": 16, "channels": 2, "history": 4}


def described(**changes: object) -> ViTConfig:
    return ViTConfig.model_validate(SMALL | changes)


def drawn(model: ViTConfig) -> ViT:
    torch.manual_seed(0)
    return ViT(model).eval()


def frames(model: ViTConfig, *space: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, model.history, model.channels, *(space or model.space))
    return torch.randn(shape, generator=generator)


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = Attention(12, heads=3).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    layers = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([layer.weight for layer in layers])
    theirs.in_proj_bias.data = torch.cat([layer.bias for layer in layers])
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    x_BNLE = torch.randn(2, 4, 5, 12).double()
    normed = nn.functional.layer_norm(x_BNLE, (12,)).flatten(0, 1)
    expected, _ = theirs(normed, normed, normed, need_weights=False)
    torch.testing.assert_close(ours(x_BNLE).flatten(0, 1), expected)


def test_a_block_attends_over_time_then_over_space() -> None:
    """A token reaches those of its patch, and then those of its time: so all of them."""
    torch.manual_seed(0)
    block = Block(described(time_tokens=4)).double()
    x_BSPE = torch.randn(1, 4, 16, 24).double().requires_grad_()
    (reached,) = torch.autograd.grad(block(x_BSPE)[0, 3, 5].sum(), x_BSPE)
    assert bool(reached.abs().sum(-1).all())
    over_time = block.attention["time"](x_BSPE.transpose(1, 2)).transpose(1, 2)
    (reached,) = torch.autograd.grad(over_time[0, 3, 5].sum(), x_BSPE)
    assert reached.abs().sum(-1)[0].nonzero()[:, 1].unique().tolist() == [5]
    over_space = block.attention["space"](x_BSPE)
    (reached,) = torch.autograd.grad(over_space[0, 3, 5].sum(), x_BSPE)
    assert reached.abs().sum(-1)[0].nonzero()[:, 0].unique().tolist() == [3]


@pytest.mark.parametrize("time_tokens", [1, 2, 4])
def test_every_frame_and_point_reaches_the_forecast(time_tokens: int) -> None:
    model = described(time_tokens=time_tokens)
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
    model = described(space_dims=3, grid=[8, 10, 4])
    assert drawn(model)(frames(model)).frames.shape == (2, 1, 2, 8, 10, 4)


def test_patches_keep_their_place() -> None:
    """Without blocks a patch of the forecast depends on the same patch of the frames alone."""
    model = described(target="residual")
    network = drawn(model)
    network._run_blocks = []
    nn.init.normal_(network.output.weight)
    given = frames(model)
    standardised = given - given.mean((1, 3, 4), keepdim=True)
    changed = network.predict(standardised, moments(given)).frames
    other = standardised.clone()
    other[..., 4:8, 8:12] += 1
    difference = (network.predict(other, moments(given)).frames - changed).abs() > 1e-6
    assert bool(difference[..., 4:8, 8:12].all())
    difference[..., 4:8, 8:12] = False
    assert not bool(difference.any())


def moments(given: Tensor) -> Moments:
    over = (1, 3, 4)
    return Moments(given.mean(over, keepdim=True), given.std(over, keepdim=True))
