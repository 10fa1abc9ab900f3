import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    conv2d,
    conv3d,
    conv_transpose2d,
    conv_transpose3d,
    gelu,
)

from dpot_scale.checkpoints.weights import read
from dpot_scale.errors import DataError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT

CONVOLUTIONS = {2: (conv2d, conv_transpose2d), 3: (conv3d, conv_transpose3d)}
GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = DPOTConfig(size="debug", width=32, depth=2, grid=16, patch=4, channels=2, history=3)


def golden_model(golden, target="frame"):
    weights = golden.get("state_dict")
    if weights is None:
        weights = read(GOLDEN / "official_format_small.pth").state
    config = golden["config"]
    model = DPOT(
        DPOTConfig(
            width=config["embed_dim"],
            depth=config["depth"],
            heads=config["n_blocks"],
            mlp_ratio=config["mlp_ratio"],
            out_layer_dim=config["out_layer_dim"],
            space_dims=weights["pos_embed"].ndim - 2,
            grid=config["img_size"],
            patch=config["patch_size"],
            channels=config["in_channels"],
            history=config["in_timesteps"],
            horizon=config["out_timesteps"],
            modes=config["modes"],
            num_datasets=config["n_cls"],
            time_aggregation=config["time_agg"],
            normalize=config["normalize"],
            target=target,
        )
    )
    model.load_state_dict(weights)
    return model


def ours(field):
    """(B, *space, T, C) -> (B, T, C, *space)."""
    return field.movedim((-2, -1), (1, 2)).contiguous()


def summed_rel_l2(forecast, target, mask):
    """Relative L2 over points and frames that the mask marks, a mean over marked fields."""
    forecast, target = ((field * mask).transpose(1, 2).flatten(2) for field in (forecast, target))
    error = (forecast - target).norm(dim=2) / (target.norm(dim=2) + 1e-8)
    fields = mask.transpose(1, 2).flatten(2).any(dim=2).sum(dim=1)
    return (error.sum(dim=1) / fields).sum()


@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        ("dpot2d_small", False),
        ("dpot2d_small", True),
        ("dpot2d_normalize_bundle", False),
        ("dpot2d_truncated_modes", False),
        ("dpot3d_small", False),
    ],
)
def test_agrees_with_the_public_implementation(name, compiled):
    golden = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    model = golden_model(golden)
    if compiled:
        model.compile_blocks()
    frames = ours(golden["input"]).requires_grad_()
    target = ours(golden["target"])
    close = {"rtol": 1e-5, "atol": 1e-6}

    output = model(frames)
    mask = ours(golden["mask"]) if "mask" in golden else torch.ones_like(target)
    loss = summed_rel_l2(output.frames, target, mask)
    head = 0.1 * output.logits.square().sum() if "cls" in golden else 0
    (loss + head).backward()

    torch.testing.assert_close(output.frames, ours(golden["output"]), **close)
    torch.testing.assert_close(loss, golden["loss"], rtol=1e-5, atol=0)
    norms = {k: p.grad.norm().item() for k, p in model.named_parameters() if p.grad is not None}
    # What torch.compile returns wraps the forward that it was given.
    assert all(hasattr(block.forward, "__wrapped__") == compiled for block in model.blocks)
    assert norms == pytest.approx(
        {k: float(norm) for k, norm in golden["grad_norms"].items()}, rel=1e-5
    )
    if "cls" in golden:
        torch.testing.assert_close(output.logits, golden["cls"], **close)
        assert frames.grad.norm().item() == pytest.approx(
            float(golden["input_grad_norm"]), rel=1e-5
        )


RESIDUAL = json.loads((GOLDEN / "dpot_residual.json").read_text())


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_residual_forecasts_what_it_did(name):
    golden, expected = torch.load(GOLDEN / f"{name}.pt", weights_only=True), RESIDUAL[name]
    model = golden_model(golden, "residual")
    frames, target = ours(golden["input"]), ours(golden["target"])
    forecast = model(frames).frames
    loss = summed_rel_l2(forecast, target, torch.ones_like(target))
    loss.backward()
    step = forecast.numel() // len(expected["forecast"])
    assert forecast.flatten()[::step].tolist() == pytest.approx(expected["forecast"], 1e-5, 1e-6)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    norms = {k: p.grad.norm().item() for k, p in model.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-4)


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_residual_is_what_the_public_implementation_gives_as_a_change(name):
    """Of the public forecasts, in fp64: those of standardised frames had their mean added."""
    golden = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    frames, public = ours(golden["input"]).double(), ours(golden["output"]).double()
    over = (1, *range(3, frames.ndim))
    std = frames.std(over, keepdim=True) + 1e-6
    change = public - frames.mean(over, keepdim=True)
    if not golden["config"]["normalize"]:
        change = std * public
    found = golden_model(golden, "residual")(frames.float()).frames
    torch.testing.assert_close(
        found.double(), frames[:, -1:] + change, rtol=1e-6, atol=2e-6, check_dtype=False
    )


@pytest.mark.parametrize("space_dims", [2, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_output_layers_see_the_newest_frames_point_by_point(space_dims, normalize):
    """Against convolutions over the whole grid."""
    convolution, transposed = CONVOLUTIONS[space_dims]
    config = SMALL.model_copy(
        update={"skip_frames": 2, "space_dims": space_dims, "normalize": normalize}
    )
    model, frames = DPOT(config), torch.randn(2, 3, 2, *[16] * space_dims)
    latent = {}
    model.blocks[-1].register_forward_hook(lambda _, __, z_BhE: latent.update(z=z_BhE))
    found = model(frames).frames

    over = (1, *range(3, frames.ndim))
    std = frames.std(over, keepdim=True) + 1e-6 if normalize else torch.ones(())
    mean = frames.mean(over, keepdim=True) if normalize else torch.zeros(())
    seen = ((frames - mean) / std)[:, -2:].flatten(1, 2)
    first, _, second, _, last = model.out_layer
    x = transposed(latent["z"].movedim(-1, 1), first.weight, first.bias, stride=4)
    x = x + convolution(seen, model.skip.weight, model.skip.bias)
    x = convolution(gelu(x), second.weight, second.bias)
    x = convolution(gelu(x), last.weight, last.bias)
    torch.testing.assert_close(found, x.unflatten(1, (1, 2)) * std + mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("space_dims", [2, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_bf16_parameters(space_dims, normalize):
    config = SMALL.model_copy(update={"space_dims": space_dims, "normalize": normalize})
    torch.manual_seed(0)
    rounded = DPOT(config).bfloat16()
    exact = DPOT(config)
    exact.load_state_dict(rounded.state_dict())  # the same rounded weights, fp32 arithmetic
    frames = 300 + 40 * torch.randn(2, 3, 2, *[16] * space_dims)
    if not normalize:
        frames = (frames - 300) / 40
    output, expected = rounded(frames), exact(frames)
    assert output.frames.dtype == output.logits.dtype == torch.float32
    error = (output.frames - expected.frames).norm() / expected.frames.norm()
    assert 0 < error < 0.02
    output.frames.square().sum().backward()
    gradients = [p.grad for k, p in rounded.named_parameters() if not k.startswith("cls_head")]
    assert all(g.dtype == torch.bfloat16 and g.isfinite().all() for g in gradients)


def test_normalized_forecast_follows_the_scale_of_each_sample():
    """What `normalize` is for: only the two statistics features may tell scales apart."""
    torch.manual_seed(0)
    model = DPOT(SMALL.model_copy(update={"normalize": True}))
    for features in (model.scale_feats_mu, model.scale_feats_sigma):
        torch.nn.init.zeros_(features.weight)
    frames = torch.randn(2, 3, 2, 16, 16)
    expected = 1000 * model(frames).frames - 7
    torch.testing.assert_close(model(1000 * frames - 7).frames, expected, rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("space_dims", [2, 3])
def test_horizon_and_shapes(space_dims):
    config = SMALL.model_copy(update={"space_dims": space_dims, "horizon": 4, "num_datasets": 5})
    output = DPOT(config)(torch.randn(2, 3, 2, *[16] * space_dims))
    assert output.frames.shape == (2, 4, 2, *[16] * space_dims)
    assert output.logits.shape == (2, 5)


@pytest.mark.parametrize("shape", [(2, 4, 2, 16, 16), (2, 3, 3, 16, 16), (3, 2, 16, 16)])
def test_frames_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match=r"\(B, 3, 2, X, Y\), got"):
        DPOT(SMALL)(torch.randn(shape))


def test_initialisation():
    torch.manual_seed(0)
    arch = DPOTConfig(size="debug")
    model = DPOT(arch)
    assert not any(p.is_complex() for p in model.parameters())
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    time = model.time_agg_layer
    assert time.w.std().item() == pytest.approx(1 / (arch.history * arch.width**0.5), rel=0.05)
    assert torch.equal(time.gamma[0, [0, -1]], torch.tensor([2.0**-10, 2.0**10]))
    block = arch.width // arch.heads
    for parameter in model.blocks[0].filter.parameters():
        scaled = parameter * block**2
        assert scaled.min() >= 0
        assert scaled.max() < 1
        assert scaled.mean().item() == pytest.approx(0.5, abs=0.08)


class Frames(nn.Module):
    """Gives the frames of a forecast alone: torch saves no graph with a tuple of ours."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames_BTCs: Tensor) -> Tensor:
        frames: Tensor = self.model(frames_BTCs).frames
        return frames


def test_a_graph_of_torch_export_forecasts_the_same(tmp_path: Path) -> None:
    """For one shape: with it a program without Python can make forecasts."""
    model = Frames(DPOT(SMALL)).eval()
    frames = torch.randn(2, 3, 2, 16, 16)
    with torch.no_grad():
        expected = model(frames)
        torch.export.save(torch.export.export(model, (frames,)), tmp_path / "model.pt2")
        loaded = torch.export.load(tmp_path / "model.pt2").module()
        torch.testing.assert_close(loaded(frames), expected)
