"""A model of normalised fields as one of physical fields."""

import pytest
import torch
from torch import Tensor

from dpot_scale.data.stream.assembly import Batch, Scale
from dpot_scale.forecasting.physical import in_physical_units
from dpot_scale.models.forecaster import Forecast


def test_a_model_that_returns_bare_frames_is_not_taken_apart() -> None:
    frames = torch.ones(2, 2, 2, 4, 4)  # of two windows, as a forecast is of frames and logits
    scored = torch.ones(2, 2, dtype=torch.bool)
    batch = Batch(
        frames_BTCxy=frames, scored_BC=scored, scale=Scale(scored.float(), scored.float())
    )
    with pytest.raises(AttributeError, match="frames"):
        in_physical_units(lambda frames: frames[:, -1:], batch)(frames)  # type: ignore[arg-type, return-value]


def test_a_model_sees_normalised_fields_and_forecasts_physical_ones() -> None:
    frames = torch.full((1, 2, 2, 4, 4), 7.0)
    seen: list[Tensor] = []

    def halve(frames: Tensor) -> Forecast:
        seen.append(frames)
        return Forecast(frames=0.5 * frames[:, -1:], logits=torch.empty(0))

    def batch_of(scale: Scale | None) -> Batch:
        scored = torch.ones(1, 2, dtype=torch.bool)
        return Batch(frames_BTCxy=frames, scored_BC=scored, scale=scale, counted_Bxy=None)

    batch = batch_of(Scale(torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 1.0]])))
    forecast = in_physical_units(halve, batch)(frames).frames
    assert seen[0][0, 0, :, 0, 0].tolist() == [2.0, 7.0]  # (7 - 3) / 2
    assert forecast[0, 0, :, 0, 0].tolist() == [5.0, 3.5]  # 3 + 2 * 1
    assert in_physical_units(halve, batch_of(None)) is halve
