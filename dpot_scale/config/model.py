"""Which model: a section of a run. Each family of models adds fields of its own to those here.

A family is a package that `FAMILIES` names. Its module `family` holds the value `FAMILY`, which
`models/family.py` describes; `FAMILY.config` is the class of its configs.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from dpot_scale.config.base import PositiveInt, Section

FAMILIES = {
    "dpot": "dpot_scale.models.dpot",
    "vit": "dpot_scale.models.vit",
    "fno": "dpot_scale.models.fno",
}
DEFAULT_FAMILY = "dpot"

DT = "dt"  # the condition that is the time from one frame of a window to the next

Points = tuple[int, ...]  # of a grid, along each axis of space


class ModelConfig(Section):
    """What the data, the objective and the evaluation read of a model of any family.

    A config of a family is complete: after validation no dimension of the model is left open.
    """

    family: str
    """Family of the model."""
    space_dims: Literal[2, 3] = 2
    """Axes of space."""
    grid: PositiveInt | tuple[PositiveInt, ...] = 128
    """Points along each axis of space: one number, or a list with one for each axis. Every dataset
    is resized to it, unless `data.shapes` says otherwise. A model takes frames of another grid,
    too."""
    channels: PositiveInt = 4
    """Fields in and out; datasets with fewer are padded."""
    history: PositiveInt = 10
    """Frames that the model sees."""
    horizon: PositiveInt = 1
    """Frames that the model predicts per forward."""
    target: Literal["frame", "residual"] = "frame"
    """What the network gives. frame: each forecast frame. residual: what is added to the last known
    frame, in units of the standard deviation of each field of a window over its history and points;
    the last layer starts at zero, so a fresh model forecasts the last known frame."""

    # Fields that only stand for the values of others, as the name of a size does.
    abbreviations: ClassVar[tuple[str, ...]] = ()
    # Fields that a description on disk may lack, since they are younger, and what that means.
    younger: ClassVar[Mapping[str, object]] = {"target": "frame"}

    @field_validator("grid")
    @classmethod
    def _has_one_number_for_each_axis(
        cls, grid: int | tuple[int, ...], info: ValidationInfo
    ) -> int | tuple[int, ...]:
        """Equal numbers are written as one, so that a grid has one spelling."""
        axes = info.data.get("space_dims")  # None: it is wrong itself
        if isinstance(grid, int) or axes is None:
            return grid
        if len(grid) != axes:
            raise PydanticCustomError(
                "one_for_each_axis",
                "Input should be one number, or a list of space_dims={axes}",
                {"axes": axes},
            )
        return _one_if_equal(grid)

    @property
    def space(self) -> Points:
        """Points along each axis of space."""
        return (self.grid,) * self.space_dims if isinstance(self.grid, int) else self.grid

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the numbers that a model is told of each window, beside its frames.

        `dt`, or that of a PDE parameter. A family that is told of none says nothing of it.
        """
        return ()

    def on(self, space: Points) -> Self:
        """Return the same model with another `grid`."""
        return self.model_copy(update={"grid": _one_if_equal(space)})

    def padded(self, points: Points) -> Points:
        """Return the grid on which the network computes a field of a grid, which it pads to it."""
        return points

    @classmethod
    def dimension_names(cls) -> list[str]:
        """Return the fields that decide parameters and forecasts, the family among them."""
        return [name for name in cls.model_fields if name not in cls.abbreviations]

    def dimensions(self) -> dict[str, object]:
        """Return the values of these fields, all of them: `model_dump` may leave some out."""
        return {name: getattr(self, name) for name in self.dimension_names()}

    def own_width(self) -> int | None:
        """Return the width that rates may follow; None where the family has no field `width`."""
        width: int | None = getattr(self, "width", None)
        return width


def _one_if_equal(points: Points) -> int | Points:
    return points[0] if len(set(points)) == 1 else points


def config_class(raw: object) -> type[ModelConfig]:
    """Return the class of the configs of the family that a raw mapping names.

    Where it names one that does not exist, that is `ModelConfig` itself.
    """
    name = raw.get("family", DEFAULT_FAMILY) if isinstance(raw, Mapping) else DEFAULT_FAMILY
    package = FAMILIES.get(str(name))
    if package is None:
        return ModelConfig
    found: type[ModelConfig] = import_module(f"{package}.family").FAMILY.config
    own = found.model_fields["family"].default
    assert own == name, (
        f"the registry calls {package} {name!r}, and its config calls itself {own!r}"
    )
    return found


def component_names(model: ModelConfig) -> list[str]:
    """Return the names of the components that the weights of a model consist of."""
    return list(import_module(f"{FAMILIES[model.family]}.family").FAMILY.components)


def laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw mapping of a model laid over that of another.

    If `top` names another family than `base`, what no other family has is dropped from `base`.
    """
    family = base.get("family", DEFAULT_FAMILY)
    if top.get("family", family) != family:
        base = {key: value for key, value in base.items() if key in ModelConfig.model_fields}
    return {**base, **top}


def _of_its_family(value: object) -> object:
    """Validate a mapping as a config of the family that it names."""
    if not isinstance(value, Mapping):
        return value
    found = config_class(value)
    if found is ModelConfig:
        known = " or ".join(repr(name) for name in FAMILIES)
        unknown = InitErrorDetails(
            type="literal_error",
            loc=("family",),
            input=value["family"],
            ctx={"expected": known},
        )
        raise ValidationError.from_exception_data("model", [unknown])
    return found.model_validate(value)


# The type of a field that holds a model of any family.
AnyModel = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_of_its_family)]
