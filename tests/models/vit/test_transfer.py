"""The weights of one ViT in another: what it forecasts at first, and what may not come along."""

import pytest
import torch
from torch import Tensor

from dpot_scale.config.start import StartConfig
from dpot_scale.models.positions import resized_positions
from dpot_scale.models.transfer import Transfer, carry_over, match_fields
from dpot_scale.models.vit.config import ViTConfig
from dpot_scale.models.vit.family import FAMILY
from dpot_scale.models.vit.network import ViT

SMALL = {
    "width": 16, "heads": 2, "depth": 2, "patch": 4, "grid": 16, "channels": 3, "history": 4,
    "time_tokens": 2,
}  # fmt: skip
NAMES = {"flow": ["u", "v", "p"]}


def network(seed: int = 0, **changes: object) -> ViT:
    torch.manual_seed(seed)
    return ViT(ViTConfig.model_validate(SMALL | changes)).eval()


def carried(source: ViT, names: list[str] | None = None, **changes: object) -> tuple[ViT, Transfer]:
    """A network with what another one leaves it."""
    found = network(seed=1, **changes)
    wanted = {"new": names} if names else {}
    fields = match_fields(source.config.channels, found.config.channels, NAMES, wanted)
    state, own = source.state_dict(), found.state_dict()
    adaptation = FAMILY.adaptation(source.config, found.config, state, fields)
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    start = StartConfig(absent="draw")
    transfer = carry_over(state, shapes, FAMILY.components, adaptation, start)
    found.load_state_dict(transfer.completed(own))
    return found, transfer


def forecast(model: ViT, frames_BTCs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(frames_BTCs).frames


def fields_of(model: ViT) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(2, model.config.history, model.config.channels, *model.config.space)


def test_on_another_grid_its_positions_are_interpolated() -> None:
    source = network()
    found, transfer = carried(source, grid=[24, 32])
    assert transfer.unfinished == set()
    assert "4 x 4 to 6 x 8 patches" in transfer.table()
    torch.testing.assert_close(found.space_embed, resized_positions(source.space_embed, (6, 8)))
    frames = fields_of(found)
    torch.testing.assert_close(forecast(found, frames), forecast(source, frames))


def test_fields_are_found_by_their_names() -> None:
    source = network(horizon=2)
    found, transfer = carried(source, ["p", "u", "v"], horizon=2)
    assert transfer.unfinished == set()
    frames = fields_of(found)
    torch.testing.assert_close(
        forecast(found, frames)[:, :, [1, 2, 0]], forecast(source, frames[:, :, [1, 2, 0]])
    )


def test_a_new_field_is_drawn_and_changes_nothing_of_the_others() -> None:
    source = network()
    found, transfer = carried(source, ["u", "T", "v", "p"], channels=4)
    assert transfer.unfinished == {"output.weight", "output.bias"}
    frames, mine = fields_of(found), [0, 2, 3]
    torch.testing.assert_close(
        forecast(found, frames)[:, :, mine], forecast(source, frames[:, :, mine])
    )


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({"target": "residual"}, {"output"}),
        ({"patch": 2}, {"patch_embed", "output"}),
        ({"history": 8}, {"patch_embed"}),
        ({"time_tokens": 4}, {"patch_embed", "pos_embed", "blocks"}),
        ({"heads": 4}, {"blocks"}),
        ({"depth": 3}, {"blocks"}),
        ({"horizon": 2}, {"output"}),
    ],
)
def test_what_means_something_else_is_drawn(changes: dict[str, object], drawn: set[str]) -> None:
    _, transfer = carried(network(), **changes)
    assert {row.component for row in transfer.rows if row.drawn} == drawn
