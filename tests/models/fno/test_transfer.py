"""The weights of one FNO in another: what it forecasts at first, and what may not come along."""

import pytest
import torch
from torch import Tensor

from dpot_scale.config.start import StartConfig
from dpot_scale.models.fno.config import FNOConfig
from dpot_scale.models.fno.family import FAMILY
from dpot_scale.models.fno.network import FNO
from dpot_scale.models.transfer import Transfer, carry_over, match_fields

SMALL = {"width": 6, "depth": 2, "modes": 4, "grid": 16, "channels": 3, "history": 3}
NAMES = {"flow": ["u", "v", "p"]}


def network(seed: int = 0, **changes: object) -> FNO:
    torch.manual_seed(seed)
    return FNO(FNOConfig.model_validate(SMALL | changes)).eval()


def carried(source: FNO, names: list[str] | None = None, **changes: object) -> tuple[FNO, Transfer]:
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


def forecast(model: FNO, frames_BTCs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(frames_BTCs).frames


def fields_of(model: FNO) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(2, model.config.history, model.config.channels, *model.config.space)


@pytest.mark.parametrize("changes", [{"modes": 6}, {"grid": 40}, {"modes": 7, "grid": [24, 32]}])
def test_matrices_of_new_modes_begin_without_effect(changes: dict[str, object]) -> None:
    source = network()
    found, transfer = carried(source, **changes)
    assert transfer.unfinished == set()
    frames = fields_of(found)
    torch.testing.assert_close(forecast(found, frames), forecast(source, frames))


def test_of_fewer_modes_the_lowest_come_along() -> None:
    """As a coarser grid uses them."""
    source = network()
    found, transfer = carried(source, modes=3)
    assert "7 x 4 to 5 x 3 modes" in transfer.table()
    frames = fields_of(source)[..., ::3, ::3][..., :5, :5]
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
    assert transfer.unfinished == {"output.2.weight", "output.2.bias"}
    frames, mine = fields_of(found), [0, 2, 3]
    torch.testing.assert_close(
        forecast(found, frames)[:, :, mine], forecast(source, frames[:, :, mine])
    )


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({"target": "residual"}, {"output"}),
        ({"history": 4}, {"lift"}),
        ({"depth": 3}, {"blocks"}),
        ({"horizon": 2}, {"output"}),
        ({"space_dims": 3}, {"lift", "blocks"}),
    ],
)
def test_what_means_something_else_is_drawn(changes: dict[str, object], drawn: set[str]) -> None:
    _, transfer = carried(network(), **changes)
    assert {row.component for row in transfer.rows if row.drawn} == drawn
