"""What weights say of the data they were trained on: the channels, and how the model sees them."""

from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import Field, ValidationError, model_validator

from dpot_scale.config.base import Float, PositiveFloat, PositiveInt, Section
from dpot_scale.config.data import DataConfig, Shapes
from dpot_scale.config.record import Record, read_record
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.data.store.statistics import Statistics
from dpot_scale.errors import CheckpointError

# Of a mean: a smaller deviation is the rounding of single precision, not a change in space.
SMALLEST_DEVIATION = 1e-6


class Channels(Section):
    """The channels of one dataset. The model sees (u - mean) / std of each."""

    names: tuple[str, ...] = Field(min_length=1)
    scored: tuple[bool, ...]  # per channel; what is the same in all frames is an input alone
    mean: tuple[Float, ...]  # zero, and
    std: tuple[PositiveFloat, ...]  # one, where the model sees u itself
    frame_interval: PositiveFloat  # in the equation's time

    @model_validator(mode="after")
    def _of_each_channel(self) -> Self:
        if {len(self.scored), len(self.mean), len(self.std)} != {len(self.names)}:
            raise ValueError(f"there must be as many values as channels, {len(self.names)}")
        return self

    @property
    def is_scaled(self) -> bool:
        """Return whether the model sees any channel otherwise than as it is."""
        return any(self.mean) or any(value != 1 for value in self.std)


class TrainingData(Record):
    """The datasets that weights were trained on, by name, and the grid on which they saw them."""

    format: PositiveInt = 2
    datasets: dict[str, Channels] = Field(min_length=1)
    shapes: Shapes | None = None  # since format 2; None: nobody knows


def training_data(stores: Mapping[str, DatasetStore], config: DataConfig) -> TrainingData:
    """Return what the weights that are trained on some datasets are to say of them."""
    return TrainingData(
        datasets={
            name: channels_of(store.info, store.statistics, config)
            for name, store in stores.items()
        },
        shapes=config.shapes,
    )


def channels_of(info: DatasetInfo, statistics: Statistics, config: DataConfig) -> Channels:
    """Return the channels of a dataset, and what the model sees of them.

    Fields are scaled where the config asks for it. Coefficients always are: they come in any unit,
    a density of 6e5 beside a pressure of 1, and the model forecasts none of them.
    """
    scales = list(_scales(info, statistics, is_normalized=config.normalize == "dataset"))
    return Channels(
        names=info.channels,
        scored=info.scored,
        mean=tuple(mean for mean, _ in scales),
        std=tuple(std for _, std in scales),
        frame_interval=info.frame_interval,
    )


def read_training_data(raw: object, place: object) -> TrainingData:
    """Return what weights say of their data.

    Args:
        raw: The JSON values.
        place: The file or folder they come from, for the sentence.

    Raises:
        CheckpointError: they are damaged, or another version wrote them.
    """
    try:
        return read_record(TrainingData, raw, str(place), CheckpointError)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise CheckpointError(
            f"{place} says nothing usable of the data of its model: {where}: {problem['msg']}"
        ) from error


def _scales(
    info: DatasetInfo, statistics: Statistics, *, is_normalized: bool
) -> Iterator[tuple[float, float]]:
    """Yield mean and std of each channel, as `Channels` has them."""
    channels = zip(info.scored, info.coefficient, statistics.mean, statistics.std, strict=True)
    for scored, coefficient, mean, std in channels:
        if coefficient:
            yield mean, _coefficient_scale(mean, std)
        elif scored and is_normalized:
            yield mean, std or 1.0  # a field that never changes has nothing to be divided by
        else:
            yield 0.0, 1.0


def _coefficient_scale(mean: float, std: float) -> float:
    """Return what a coefficient is divided by; of one that is the same everywhere, its size.

    Another trajectory may have another value everywhere, which must not come out huge.
    """
    size = abs(mean)
    return std if std > SMALLEST_DEVIATION * size else size or 1.0
