"""Products against the convolutions they stand for, the merged encoder against its steps."""

import pytest
import torch
from torch import nn

from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.layers import (
    PatchesIn,
    PatchesOut,
    Pointwise,
    PointwiseRows,
)
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.patches import grid_from_patches

CONVOLUTION = {2: nn.functional.conv2d, 3: nn.functional.conv3d}
TRANSPOSED = {2: nn.functional.conv_transpose2d, 3: nn.functional.conv_transpose3d}
SPACES = [(8, 12), (4, 8, 12)]  # patch 4


def with_coordinates(frames):
    """(B, T, C, *space) -> (B T, C + D, *space), from 0 to 1 along each axis."""
    batch, history, _, *space = frames.shape
    axes = torch.meshgrid(*[torch.linspace(0, 1, n) for n in (history, *space)], indexing="ij")
    place = torch.stack([*axes[1:], axes[0]], dim=1).to(frames.dtype)
    return torch.cat([frames, place.expand(batch, *place.shape)], dim=2).flatten(0, 1)


def assert_same_with_gradients(found, expected, inputs):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * weight).sum(), inputs) for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_patches_in(space):
    torch.manual_seed(0)
    layer = PatchesIn(channels=2, outputs=5, patch=4, space_dims=len(space)).double()
    frames = torch.randn(2, 3, 2, *space).double().requires_grad_()
    image = CONVOLUTION[len(space)](with_coordinates(frames), layer.weight, layer.bias, stride=4)
    expected = image.unflatten(0, (2, 3)).flatten(3).permute(0, 3, 1, 2)
    assert_same_with_gradients(layer(frames), expected, [frames, layer.weight, layer.bias])


@pytest.mark.parametrize("space", SPACES)
def test_patches_out(space):
    torch.manual_seed(0)
    layer = PatchesOut(inputs=3, outputs=5, patch=4, space_dims=len(space)).double()
    x = torch.randn(2, *[n // 4 for n in space], 3).double().requires_grad_()
    expected = TRANSPOSED[len(space)](x.movedim(-1, 1), layer.weight, layer.bias, stride=4)
    found = grid_from_patches(layer(x), 4)
    assert_same_with_gradients(found, expected, [x, layer.weight, layer.bias])


@pytest.mark.parametrize("dims", [2, 3])
def test_pointwise(dims):
    torch.manual_seed(0)
    layer = Pointwise(3, 5, dims).double()
    x = torch.randn(2, *[4] * dims, 3).double().requires_grad_()
    expected = CONVOLUTION[dims](x.movedim(-1, 1), layer.weight, layer.bias).movedim(1, -1)
    assert_same_with_gradients(layer(x), expected, [x, layer.weight, layer.bias])


def test_pointwise_keeps_the_parameter_and_no_view_of_it():
    """Under ZeRO-3 the memory behind a view of a gathered weight could not be freed."""
    layer, kept = Pointwise(3, 5, 2), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        layer(torch.randn(2, 4, 4, 3))
    of_weight = [t for t in kept if t.untyped_storage().data_ptr() == layer.weight.data_ptr()]
    assert [t.shape for t in of_weight] == [layer.weight.shape]


@pytest.mark.parametrize(
    ("convolution", "inputs", "ours"),
    [
        (nn.Conv2d(5, 7, 4), (5, 7), lambda: PatchesIn(2, 7, 4, 2)),
        (nn.ConvTranspose2d(5, 7, 4), (5, 7), lambda: PatchesOut(5, 7, 4, 2)),
        (nn.Conv3d(5, 7, 1), (5, 7), lambda: Pointwise(5, 7, 3)),
        (nn.Conv3d(5, 7, 1), (5, 7), lambda: PointwiseRows(5, 7, 3)),
    ],
)
def test_initial_weights_are_those_torch_draws(convolution, inputs, ours):
    torch.manual_seed(0)
    convolution.reset_parameters()
    torch.manual_seed(0)
    torch.testing.assert_close(ours().state_dict(), convolution.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("space_dims", [2, 3])
@pytest.mark.parametrize("time_aggregation", ["exp_mlp", "mlp"])
def test_merged_encoder_equals_its_steps(space_dims, time_aggregation):
    torch.manual_seed(0)
    arch = DPOTConfig(
            width=24, depth=1, heads=3, out_layer_dim=5, grid=12, patch=4, channels=2, history=3,
            space_dims=space_dims, time_aggregation=time_aggregation,
        )  # fmt: skip
    model = DPOT(arch).double()
    frames = torch.randn(2, 3, 2, *[12] * space_dims).double().requires_grad_()

    first, _, last = model.patch_embed.proj
    convolve = CONVOLUTION[space_dims]
    features = nn.functional.gelu(
        convolve(with_coordinates(frames), first.weight, first.bias, stride=4)
    )
    z_NEh = convolve(features, last.weight, last.bias) + model.pos_embed
    z_BThE = z_NEh.unflatten(0, (2, 3)).movedim(2, -1)
    time = model.time_agg_layer
    if time.gamma is not None:
        phase_TE = torch.cos(torch.linspace(0, 1, 3).unsqueeze(1) * time.gamma.float())
        z_BThE = z_BThE * phase_TE.double().view(3, *[1] * space_dims, -1)
    expected = sum(z_BThE[:, t] @ time.w[t] for t in range(3))

    inputs = [frames, model.pos_embed, *model.patch_embed.parameters(), *time.parameters()]
    assert_same_with_gradients(model._encode(frames), expected, inputs)
