"""Which data: the mixture of a run, and the suites that are generated."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dpot_scale.config.base import (
    NO_BOOL,
    Float,
    Name,
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
    grid: PositiveInt
    """Stored points per axis."""
    frames: PositiveInt
    """Stored frames per trajectory."""
    frame_interval: PositiveFloat
    """Time from one frame to the next, in the equation's unit."""
    parameters: dict[str, Float] = Field(default={})
    """Parameters of the equation, such as viscosity. Without one: the solver's default."""

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
        """Return the suite with a multiple of its trajectories, at least one each, and a name."""
        datasets = {
            name: recipe.model_copy(
                update={
                    "train": max(1, round(recipe.train * factor)),
                    "test": max(1, round(recipe.test * factor)),
                }
            )
            for name, recipe in self.datasets.items()
        }
        return self.model_copy(update={"name": f"{self.name}-x{factor:g}", "datasets": datasets})


class DataConfig(Section):
    """Which datasets are mixed, and how their windows reach the model."""

    root: Path = Path("data")
    """Folder of the datasets."""
    weights: dict[str, PositiveFloat] = Field(min_length=1)
    """Mixture weight of each dataset, by its name."""
    suite: SuiteConfig | None = None
    """Suite to generate under `root` where its datasets are missing: the name of a preset, the path
    of a YAML file, or the content of one. null: generate nothing."""
    sampling: Literal["weighted", "repeat"] = "weighted"
    """What a weight means. weighted: the dataset's share of the training windows, as the paper
    says. repeat: how often an epoch visits each of its trajectories, as the paper's code does."""
    strides: tuple[PositiveInt, ...] = Field((1,), min_length=1)
    """Stored frames per time step; each window has one of these strides."""
    normalize: Literal["none", "dataset"] = "none"
    """dataset: the model sees each field minus its mean, divided by its standard deviation in the
    training split. Forecasts, losses and scores stay in physical units."""
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
    def _strides_differ(self) -> Self:
        if len(set(self.strides)) < len(self.strides):
            raise ValueError(f"strides={list(self.strides)} names one twice")
        return self
