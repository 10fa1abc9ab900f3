"""The base of every config section, and the kinds of values that sections share."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError


def _no_bool(value: object) -> object:
    """Refuse true and false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


# Not strict: YAML reads 1e-3 as text.
Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_bool)]
PositiveInt = Annotated[Int, Field(ge=1)]
NonNegativeInt = Annotated[Int, Field(ge=0)]
PositiveFloat = Annotated[Float, Field(gt=0)]
NonNegativeFloat = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Seed = Annotated[Int, Field(ge=0, lt=2**31)]  # numpy takes 32 bits, and a rank is added
Name = Annotated[str, Field(pattern=r"^\w[\w.\-]*$")]  # of a folder; never "." or ".."
STRICT = ConfigDict(extra="forbid")  # about unknown keys


class Section(BaseModel):
    """Base of every config section: immutable, and strict about unknown keys.

    The string below a field is its description in docs/config.md.
    """

    model_config = ConfigDict(
        **STRICT,
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="strings",  # not null, which would be read as nothing at all
    )
