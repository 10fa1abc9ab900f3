"""The weights of one DPOT in another: what it forecasts at first, and what may not come along."""

import pytest
import torch

from dpot_scale.checkpoints.weights_file import Weights
from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.data.channels import TrainingData
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.transfer import ChannelNames, Transfer
from dpot_scale.runs.start import plan_transfer

NAMES = {"flow": ["u", "v", "p", "T"]}
SMALL = {
    "width": 16, "depth": 2, "heads": 2, "out_layer_dim": 4, "grid": 16, "patch": 4,
    "channels": 4, "history": 10, "mlp_ratio": 2, "num_datasets": 3,
}  # fmt: skip


def described(**changes: object) -> DPOTConfig:
    return DPOTConfig.model_validate(SMALL | changes)


def network(model: DPOTConfig, seed: int = 0) -> DPOT:
    torch.manual_seed(seed)
    return DPOT(model).eval()


def run(model: DPOTConfig, *start: str) -> RunConfig:
    config = load_run("quickstart", ["start.source=weights", *start])
    return config.model_copy(update={"model": model})


def trained_on(names: ChannelNames) -> TrainingData | None:
    datasets = {
        dataset: {
            "names": tuple(channels),
            "scored": (True,) * len(channels),
            "mean": (0.0,) * len(channels),
            "std": (1.0,) * len(channels),
            "frame_interval": 1.0,
        }
        for dataset, channels in names.items()
    }
    return TrainingData.model_validate({"datasets": datasets}) if datasets else None


def carried(
    source: DPOT, target: DPOTConfig, names: ChannelNames, *start: str, of: ChannelNames = NAMES
) -> tuple[DPOT, Transfer]:
    """A network with what another one leaves it."""
    weights = Weights(source.config, source.state_dict(), trained_on(of))
    transfer = plan_transfer(weights, run(target, *start), trained_on(names))
    found = network(target, seed=1)
    found.load_state_dict(transfer.completed(found.state_dict()))
    return found, transfer


def forecast(model: DPOT, frames_BTCs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(frames_BTCs).frames


def fields(model: DPOTConfig) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(2, model.history, model.channels, *model.space)


def rows(transfer: Transfer) -> dict[str, tuple[int, int, int]]:
    return {row.component: (row.carried, row.adapted, row.drawn) for row in transfer.rows}


@pytest.mark.parametrize("more", [{}, {"normalize": True}, {"skip_frames": 2}])
@pytest.mark.parametrize("target", ["frame", "residual"])
def test_the_fields_of_six_channels_that_it_knows_are_forecast_as_before(
    more: dict, target: str
) -> None:
    source = network(described(target=target, **more))
    torch.nn.init.normal_(source.out_layer[-1].weight)
    wanted = described(channels=6, target=target, **more)
    order = ["p", "q", "u", "v", "r", "T"]
    found, transfer = carried(source, wanted, {"new": order}, "start.absent=draw")
    frames = fields(wanted)
    mine = [order.index(name) for name in NAMES["flow"]]
    torch.testing.assert_close(
        forecast(found, frames)[:, :, mine],
        forecast(source, frames[:, :, mine]),
        rtol=1e-4,
        atol=1e-4,
    )
    assert rows(transfer)["blocks"][1:] == (0, 0)
    assert rows(transfer)["output"][2] == 2 * (4 + 1), "a row and a bias for each new field"
    assert "fields by name, 19 to 27 features" in transfer.table()


def test_the_order_of_channels_is_found_by_their_names() -> None:
    source = network(described())
    order = ["T", "p", "v", "u"]
    found, transfer = carried(source, described(), {"new": order})
    frames = fields(described())
    mine = [order.index(name) for name in NAMES["flow"]]
    torch.testing.assert_close(
        forecast(found, frames)[:, :, mine], forecast(source, frames[:, :, mine])
    )
    assert transfer.unfinished == set()


def test_a_field_that_it_does_not_know_begins_as_another_one() -> None:
    source = network(described())
    found, transfer = carried(source, described(channels=1), {"new": ["h"]})
    last = found.out_layer[4].weight
    assert torch.equal(last[0], source.out_layer[4].weight[0])
    assert "fields by name, h as u" in transfer.table()
    assert transfer.unfinished == set()


def test_without_names_channels_are_those_in_their_places() -> None:
    source = network(described())
    found, transfer = carried(source, described(), {"new": ["T", "p", "v", "u"]}, of={})
    torch.testing.assert_close(found.state_dict(), source.state_dict())
    assert all(row.adapted == row.drawn == 0 for row in transfer.rows)


def test_of_fewer_channels_the_strongest_features_stay() -> None:
    source = network(described())
    with torch.no_grad():
        source.patch_embed.proj[0].weight[5] *= 100
    found, transfer = carried(source, described(channels=2), {"new": ["v", "T"]})
    kept = found.patch_embed.proj[0].weight
    strongest = source.patch_embed.proj[0].weight[5, [1, 3]]
    assert any(torch.equal(row[:2], strongest) for row in kept)
    assert transfer.unfinished == set()


@pytest.mark.parametrize("frames", [4, 16, 3, 25])
def test_another_history_samples_the_weights_of_frames_at_the_same_times(frames: int) -> None:
    source = network(described())
    with torch.no_grad():
        slope, base = torch.randn(2, 16, 16)
        times = torch.linspace(0, 1, 10).view(-1, 1, 1)
        source.time_agg_layer.w.copy_(base + slope * times)
    found, transfer = carried(source, described(history=frames), NAMES)
    times = torch.linspace(0, 1, frames).view(-1, 1, 1)
    expected = (base + slope * times) * 10 / frames
    torch.testing.assert_close(found.time_agg_layer.w.detach(), expected)
    whole = (w.time_agg_layer.w.detach().sum(0) for w in (found, source))
    torch.testing.assert_close(*whole, rtol=1e-3, atol=1e-3)
    assert f"10 to {frames} frames of history" in transfer.table()


@pytest.mark.parametrize("aggregation", ["exp_mlp", "mlp"])
def test_one_frame_says_what_a_history_that_stands_still_says(aggregation: str) -> None:
    """Steady problems, such as Darcy: the coefficients go in, and there is no time."""
    source = network(described(time_aggregation=aggregation))
    model = described(time_aggregation=aggregation, history=1, channels=2)
    found, _ = carried(source, model, {"darcy": ["u", "v"]})
    rows_RE, constant_PE = torch.randn(3, 16), torch.randn(4, 16)
    operator_TRE, constant = source.time_agg_layer(rows_RE, constant_PE)
    summed_RE = operator_TRE.view(10, 3, 16).sum(0)
    with torch.no_grad():
        torch.testing.assert_close(
            found.time_agg_layer(rows_RE, constant_PE), (summed_RE, constant)
        )


def test_one_frame_becomes_several_that_share_its_weight() -> None:
    source = network(described(history=1))
    found, _ = carried(source, described(history=5), NAMES)
    torch.testing.assert_close(found.time_agg_layer.w.sum(0), source.time_agg_layer.w[0])


@pytest.mark.parametrize("grid", [24, 8, 96, 18])
def test_another_grid_interpolates_positions(grid: int) -> None:
    source = network(described())
    with torch.no_grad():
        slope = torch.linspace(-1, 1, 4)
        source.pos_embed[:] = slope.view(1, 1, 4, 1)
    found, transfer = carried(source, described(grid=grid), NAMES)
    points = -(-grid // 4)
    expected = torch.nn.functional.interpolate(
        slope.view(1, 1, 4, 1).expand(1, 1, 4, 4),
        size=(points, points),
        mode="bicubic",
        antialias=True,
    )
    torch.testing.assert_close(found.pos_embed.detach(), expected.expand_as(found.pos_embed))
    assert f"4 x 4 to {points} x {points} latent points" in transfer.table()
    assert transfer.unfinished == set()


def test_blocks_go_from_2d_to_3d_and_the_rest_is_drawn() -> None:
    source, wanted = network(described()), described(space_dims=3, grid=8)
    found, transfer = carried(source, wanted, NAMES, "start.absent=draw")
    for name, value in source.blocks.state_dict().items():
        gained = found.blocks.state_dict()[name]
        assert torch.equal(gained.flatten(), value.flatten()), name
    assert torch.equal(found.time_agg_layer.w, source.time_agg_layer.w)
    assert rows(transfer)["blocks"][2] == 0
    assert all(rows(transfer)[part][:2] == (0, 0) for part in ("patch_embed", "output"))
    only_blocks = ["start.absent=draw", "start.components.time_agg=redraw"]
    found, _ = carried(source, wanted, NAMES, *only_blocks)
    assert not torch.equal(found.time_agg_layer.w, source.time_agg_layer.w)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 4)])
def test_frames_beyond_the_horizon_begin_as_the_last_one(before: int, after: int) -> None:
    source = network(described(horizon=before))
    found, _ = carried(source, described(horizon=after), NAMES)
    frames = fields(described())
    expected, given = forecast(source, frames), forecast(found, frames)
    for frame in range(after):
        torch.testing.assert_close(given[:, frame], expected[:, min(frame, before - 1)])


def conditioned(*parameters: str) -> DPOTConfig:
    return described(conditioning=("dt", "parameters"), parameters=parameters)


def test_conditions_are_told_by_their_names() -> None:
    source, wanted = network(conditioned("eta", "zeta")), conditioned("Re", "zeta", "Pr", "eta")
    assert source.conditioning is not None
    torch.nn.init.normal_(source.conditioning.modulation.weight)
    found, transfer = carried(source, wanted, NAMES)
    frames, told = fields(wanted), torch.tensor([[0.1, 1.0, 2.0], [0.2, 3.0, 0.5]])
    nan = torch.full((2, 1), torch.nan)
    more = torch.cat([told[:, :1], nan, told[:, 2:], nan, told[:, 1:2]], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(found(frames, more).frames, source(frames, told).frames)
    assert "conditions by name" in transfer.table()


def test_conditions_that_the_weights_lack_have_no_effect_at_first() -> None:
    source, wanted = network(described()), conditioned("eta")
    with pytest.raises(ConfigError, match=r"draws what is missing of conditioning"):
        carried(source, wanted, NAMES)
    found, _ = carried(source, wanted, NAMES, "start.absent=draw")
    told = torch.tensor([[0.1, 1.0], [0.2, torch.nan]])
    with torch.no_grad():
        given = found(fields(wanted), told).frames
    assert torch.equal(given, forecast(source, fields(wanted)))
    back, transfer = carried(found, described(), NAMES)
    assert torch.equal(forecast(back, fields(wanted)), given)
    assert transfer.dropped == ("conditioning",)


@pytest.mark.parametrize("datasets", [1, 5])
def test_the_head_keeps_the_first_datasets(datasets: int) -> None:
    source = network(described())
    found, transfer = carried(source, described(num_datasets=datasets), NAMES)
    fewer = min(3, datasets)
    assert torch.equal(found.cls_head[4].weight[:fewer], source.cls_head[4].weight[:fewer])
    assert not found.cls_head[4].weight[fewer:].any()
    assert transfer.unfinished == set()


def test_weights_in_half_precision_are_adapted_in_full_precision() -> None:
    source = network(described()).to(torch.bfloat16)
    found, _ = carried(source, described(channels=2, history=4, grid=24), {"new": ["v", "T"]})
    assert {value.dtype for value in found.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "names", "said"),
    [
        (
            {"depth": 3},
            NAMES,
            "the config says model.depth=3, but the weights need: model.depth=2; or "
            "start.absent=draw draws what is missing of blocks",
        ),
        ({"width": 32}, NAMES, "says model.width=32, but the weights need: model.width=16; or "),
        ({"heads": 4}, NAMES, "the weights need: model.heads=2; or start.absent=draw draws what"),
        ({"patch": 8}, NAMES, "draws what is missing of patch_embed, output"),
        ({"normalize": True}, NAMES, "draws what is missing of statistics"),
        ({"target": "residual"}, NAMES, "draws what is missing of output"),
        ({"time_aggregation": "mlp"}, NAMES, "draws what is missing of time_agg"),
        ({"depth": 1}, NAMES, "the weights need: model.depth=2; or start.absent=draw starts from"),
        ({"channels": 5}, {"new": ["u", "q"]}, "the weights have no fields channel 5; or start"),
        ({"channels": 5}, {"new": ["u", "v", "p", "T", "h"]}, "no fields h; or start.absent=draw"),
    ],
)
def test_what_has_no_counterpart_is_refused_unless_it_may_be_drawn(
    changes: dict, names: ChannelNames, said: str
) -> None:
    source, wanted = network(described()), described(**changes)
    with pytest.raises(ConfigError) as error:
        carried(source, wanted, names)
    assert said in str(error.value)
    if "width" not in changes:
        carried(source, wanted, names, "start.absent=draw")


def test_what_is_drawn_anyway_need_not_agree() -> None:
    source = network(described())
    wanted = described(target="residual", out_layer_dim=8, skip_frames=1)
    _, transfer = carried(source, wanted, NAMES, "start.components.output=redraw")
    assert rows(transfer)["output"][:2] == (0, 0)


def test_blocks_of_another_depth_come_along_one_by_one() -> None:
    source = network(described())
    found, transfer = carried(source, described(depth=3), NAMES, "start.absent=draw")
    assert torch.equal(found.blocks[1].filter.w1, source.blocks[1].filter.w1)
    assert {name.split(".")[1] for name in transfer.unfinished} == {"2"}
    _, transfer = carried(source, described(depth=1), NAMES, "start.absent=draw")
    assert transfer.dropped == ("blocks.1",)
