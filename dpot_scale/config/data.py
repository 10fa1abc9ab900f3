"""Which data: the mixture of a run, suites that are generated, the meaning of plain arrays."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dpot_scale.config.base import (
    NO_BOOL,
    Float,
    Name,
    NonNegativeInt,
    Place,
    PositiveFloat,
    PositiveInt,
    Section,
    content_hash,
)


class GeneratedDataset(Section):
    """One dataset to solve for. `data/generation/solvers/` holds the equations."""

    equation: Name
    """Which equation is solved; `data/generation/equations.py` lists them."""
    train: PositiveInt
    """Trajectories in the training split."""
    test: PositiveInt
    """Trajectories in the test split."""
    valid: NonNegativeInt = 0
    """Trajectories in the valid split, by which sweeps choose."""
    grid: PositiveInt
    """Stored points per axis."""
    frames: PositiveInt
    """Stored frames per trajectory."""
    frame_interval: PositiveFloat
    """Time from one frame to the next, in the equation's unit."""
    parameters: dict[str, Float] = Field(default={})
    """Parameters of the equation, such as viscosity. Without one: the solver's default."""

    def trajectories(self) -> dict[Literal["train", "valid", "test"], int]:
        """Return how many trajectories each split has."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @model_validator(mode="after")
    def _steady_problems_have_two_frames(self) -> Self:
        if self.equation == "darcy" and self.frames != 2:
            raise ValueError(
                f"frames={self.frames}: a steady problem has 2, its coefficient and its solution"
            )
        return self


class SuiteConfig(Section):
    """Datasets that are generated together, reproducibly from one seed."""

    name: Name
    """Name of the suite."""
    # Solvers take 32 bits, and each suite seed stands for a million of theirs
    # (data/generation/suite.py).
    seed: Annotated[int, Field(ge=0, lt=4000), NO_BOOL] = 0
    """Seed of all initial states."""
    datasets: dict[str, GeneratedDataset] = Field(min_length=1)
    """The datasets, by name."""

    def recipe(self, name: str) -> str:
        """Return what a dataset is made by, in words: the same data have the same recipe.

        Fields that a later version adds do not change it where they have their defaults.
        """
        dataset = self.datasets[name]
        values = dataset.model_dump(mode="json", exclude_defaults=True)
        content = content_hash(values | {"parameters": dataset.parameters})
        return f"{dataset.equation}, suite seed {self.seed}, recipe {content}"

    def scaled(self, factor: float) -> Self:
        """Return the suite with a multiple of its trajectories, at least one where it has some."""
        datasets = {
            name: recipe.model_copy(
                update={
                    split: max(1, round(number * factor)) if number else 0
                    for split, number in recipe.trajectories().items()
                }
            )
            for name, recipe in self.datasets.items()
        }
        return self.model_copy(update={"name": f"{self.name}-x{factor:g}", "datasets": datasets})


SPACE_AXES = "XYZ"
AXES = f"NTC{SPACE_AXES}"  # trajectories, frames, channels, space


class ArrayLayout(Section):
    """What the axes and channels of plain arrays are: for `prepare import --layout`."""

    layout: Annotated[str, Field(pattern=f"^[{AXES}]+$")]
    """The axes of an array in its order: N trajectories, T frames, C channels, X, Y and Z space. N,
    T and C may be missing where there is only one."""
    arrays: tuple[str, ...] = ()
    """Names of the arrays to read, whose channels are put together, in a file that holds several.
    Default: the arrays that `channels` names, or the only one with the axes of `layout`."""
    channels: tuple[Name, ...] = ()
    """Names of the channels. Default: `c0`, `c1` and so on, or after the arrays."""
    dt: PositiveFloat = 1.0
    """Time from one frame to the next, in the equation's unit."""
    domain: tuple[PositiveFloat, ...] = ()
    """Lengths of the space axes x, y and z. Default: nobody knows them; in pictures points are
    as far apart along each axis."""
    units: tuple[str, ...] = ()
    """Units of the channels for pictures, as m/s; "" is unknown, "1" none. Default: the attributes
    `units` of arrays in HDF5."""
    length_unit: str = ""
    """The unit of `domain`."""
    time_unit: str = ""
    """The unit of `dt`."""
    equation: str = "unknown"
    """The equation, in words."""
    boundary: str = "unknown"
    """What holds at the boundary, in words, for example periodic."""
    test_share: Annotated[float, Field(gt=0, lt=1), NO_BOOL] | None = None
    """Share of the trajectories, the last ones, for the test. Default: the files whose names or
    folders say `test`, or a tenth where none does."""

    @property
    def space_axes(self) -> str:
        """Return the letters of the space axes that there are: XY or XYZ."""
        return "".join(axis for axis in SPACE_AXES if axis in self.layout)

    @property
    def lengths(self) -> tuple[float, ...]:
        """Return the length of each space axis."""
        return self.domain or (1.0,) * len(self.space_axes)

    @model_validator(mode="after")
    def _axes_are_those_of_a_field(self) -> Self:
        if len(set(self.layout)) < len(self.layout):
            raise ValueError(f"layout={self.layout} names an axis twice")
        if self.space_axes not in ("XY", "XYZ"):
            raise ValueError(
                f"layout={self.layout} has the space axes {self.space_axes or 'none'}; fields have "
                "X and Y, or X, Y and Z"
            )
        if len(self.lengths) != len(self.space_axes):
            raise ValueError(
                f"domain={list(self.domain)} gives {len(self.domain)} lengths; layout="
                f"{self.layout} has the {len(self.space_axes)} space axes {self.space_axes}"
            )
        if self.length_unit and not self.domain:
            raise ValueError(f"length_unit={self.length_unit} is that of no domain")
        for key in ("arrays", "channels"):
            names = getattr(self, key)
            if len(set(names)) < len(names):
                raise ValueError(f"{key}={list(names)} names one twice")
        return self


Shapes = Literal["resize", "native"]


class DataConfig(Section):
    """Which datasets are mixed, and how their windows reach the model."""

    root: Place = Path("data")
    """Folder of the datasets."""
    weights: dict[str, PositiveFloat] = Field(min_length=1)
    """Mixture weight of each dataset, by its name."""
    suite: SuiteConfig | None = None
    """Suite to generate under `root` where its datasets are missing: the name of a preset, the path
    of a YAML file, or the content of one. null: generate nothing."""
    sampling: Literal["weighted", "repeat"] = "weighted"
    """What a weight means. weighted: the dataset's share of the training windows, as the paper
    says. repeat: how often an epoch visits each of its trajectories, as the paper's code does."""
    trajectories: PositiveInt | dict[str, PositiveInt] | None = None
    """At most so many training trajectories of each dataset, the first ones: one number, or one by
    dataset. null: all. `normalize` still knows the statistics of all."""
    strides: tuple[PositiveInt, ...] = Field((1,), min_length=1)
    """Stored frames per time step; each window has one of these strides."""
    normalize: Literal["none", "dataset"] = "none"
    """dataset: the model sees each field minus its mean, divided by its standard deviation in the
    training split. Forecasts, losses and scores stay in physical units."""
    shapes: Shapes = "resize"
    """On which grid the model sees a dataset. resize: all on `model.grid`. native: each on that
    which it is stored on; the windows of a step are of datasets of one grid."""
    mask_points: bool = False
    """Whether points inside obstacles are left out of losses and scores."""

    @model_validator(mode="after")
    def _repeats_are_whole(self) -> Self:
        for name, weight in self.weights.items():
            if self.sampling == "repeat" and not weight.is_integer():
                raise ValueError(
                    f"weights.{name}={weight:g} is not a whole number, but sampling=repeat visits "
                    "each trajectory so many times an epoch"
                )
        return self

    @model_validator(mode="after")
    def _trajectories_are_of_the_mixture(self) -> Self:
        if isinstance(self.trajectories, dict):
            for name in self.trajectories.keys() - self.weights.keys():
                raise ValueError(
                    f"trajectories.{name} is of no dataset in weights: {', '.join(self.weights)}"
                )
        return self

    def most_trajectories(self, dataset: str) -> int | None:
        """Return how many of its training trajectories a dataset gives at most; None: all."""
        if isinstance(self.trajectories, dict):
            return self.trajectories.get(dataset)
        return self.trajectories

    @model_validator(mode="after")
    def _strides_differ(self) -> Self:
        if len(set(self.strides)) < len(self.strides):
            raise ValueError(f"strides={list(self.strides)} names one twice")
        return self
