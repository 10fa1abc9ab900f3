"""Fields reach the channels that a model has for them, also on data that are new to it."""

import numpy as np
import pytest
import torch

from dpot_scale.data.channels import Channels, TrainingData
from dpot_scale.evaluation.channels import by_channels, channels_for
from dpot_scale.models.forecaster import Forecast


def trained_on(**datasets: tuple[str, ...]) -> TrainingData:
    return TrainingData(
        datasets={
            name: Channels(
                names=names,
                scored=(True,) * len(names),
                mean=(0.0,) * len(names),
                std=(1.0,) * len(names),
                frame_interval=1.0,
            )
            for name, names in datasets.items()
        }
    )


@pytest.mark.parametrize(
    ("names", "trained", "places"),
    [
        (("u", "v"), None, (0, 1, 2, 3)),
        (("u", "v"), trained_on(a=("h",), b=("u", "v")), (0, 1, 2, 3)),
        (("v", "u"), trained_on(b=("u", "v")), (1, 0, 2, 3)),
        (("p", "u"), trained_on(b=("u", "v", "p")), (2, 0, 1, 3)),
        # A field that it does not know takes a channel that is left.
        (("smoke", "u", "v"), trained_on(b=("u", "v", "density", "p")), (2, 0, 1, 3)),
        (("a", "b"), trained_on(b=("u", "v")), (0, 1, 2, 3)),
        # Both names are those of one channel.
        (("u", "h"), trained_on(a=("h",), b=("u", "v")), (0, 1, 2, 3)),
    ],
)
def test_fields_go_by_name_where_the_data_are_new(
    names: tuple[str, ...], trained: TrainingData | None, places: tuple[int, ...]
) -> None:
    assert channels_for(names, 4, trained) == places


def test_a_network_sees_its_own_order_and_forecasts_in_that_of_the_data() -> None:
    frames = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)))
    seen = []

    def network(frames_BTCs: torch.Tensor, *conditions: torch.Tensor) -> Forecast:
        seen.append((frames_BTCs, conditions))
        factors = torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(4, 1, 1)
        return Forecast(frames_BTCs[:, -1:] * factors)

    told = torch.ones(2, 1)
    found = by_channels(network, (2, 0, 1, 3))(frames, told).frames
    ((given, conditions),) = seen
    assert torch.equal(given[:, :, [2, 0, 1, 3]], frames)
    assert conditions[0] is told
    factors = torch.tensor([100.0, 1.0, 10.0, 1000.0]).view(4, 1, 1)
    assert torch.equal(found, frames[:, -1:] * factors)
    assert by_channels(network, (0, 1, 2, 3)) is network
