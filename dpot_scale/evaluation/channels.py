"""In which channels of a model the fields of a dataset go.

Legend: B windows, T frames, C channels, s any number of space axes, K conditions.
"""

from collections.abc import Sequence

from torch import Tensor

from dpot_scale.data.channels import TrainingData
from dpot_scale.forecasting.physical import Network
from dpot_scale.models.forecaster import Forecast
from dpot_scale.models.transfer import match_fields


def channels_for(
    names: Sequence[str], channels: int, trained: TrainingData | None
) -> tuple[int, ...]:
    """Return for each channel of a batch that of the model which takes it, all C of them.

    Fields go in their order, as in training, where the model was trained on a dataset that has just
    them, or nobody knows on what; else by name, as weights start on other data.

    Args:
        names: The channels of the dataset.
        channels: How many the model has.
        trained: What the model was trained on; None: nobody knows.
    """
    in_order = tuple(range(channels))
    if trained is None:
        return in_order
    known = {dataset: one.names for dataset, one in trained.datasets.items()}
    if tuple(names) in known.values():
        return in_order
    fields = match_fields(channels, channels, known, {"scored": names})
    taken = [place for place in fields.taken[: len(names)] if place is not None]
    if len(set(taken)) < len(names):  # a name that stands for several channels
        return in_order
    return (*taken, *(place for place in in_order if place not in taken))


def by_channels(network: Network, places: Sequence[int]) -> Network:
    """Return a network that takes and gives channels in another order.

    Args:
        network: Takes its own channels.
        places: For each channel of the frames, that of the network.
    """
    if list(places) == sorted(places):
        return network
    back = [places.index(channel) for channel in range(len(places))]

    def reordered(frames_BTCs: Tensor, *conditions_BK: Tensor) -> Forecast:
        forecast = network(frames_BTCs[:, :, back], *conditions_BK)
        return forecast._replace(frames=forecast.frames[:, :, list(places)])

    return reordered
