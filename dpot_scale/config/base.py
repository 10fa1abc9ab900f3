"""The base of every config section, and the kinds of values that sections share."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError

LONGEST_NAME = 255  # bytes, of a file or folder
URL = re.compile(r"(?!models:)[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a path has one slash of two


def _no_bool(value: object) -> object:
    """Refuse true and false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


def possible(path: Path) -> Path:
    """Refuse a path of which the system would only say that it is wrong, whatever is done."""
    if "\0" in str(path) or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise ValueError("no file can have this name, which is too long or holds a zero byte")
    return path


def no_url(path: Path) -> Path:
    """Refuse a URL, which may hold a password and would be saved; here it would be a folder."""
    if URL.match(str(path)):
        raise ValueError("it is a URL, where a file or folder on this machine is needed")
    return path


# Not strict: YAML reads 1e-3 as text.
NO_BOOL = BeforeValidator(_no_bool)  # behind a range, or the reference does not see the range
Float = Annotated[float, Field(allow_inf_nan=False), NO_BOOL]
PositiveInt = Annotated[int, Field(ge=1), NO_BOOL]
NonNegativeInt = Annotated[int, Field(ge=0), NO_BOOL]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), NO_BOOL]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), NO_BOOL]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NO_BOOL]
# numpy takes 32 bits, and a rank is added
Seed = Annotated[int, Field(ge=0, lt=2**31), NO_BOOL]
FOLDER_NAME = r"\w[\w.\-]*"  # never "." or ".."
Name = Annotated[str, Field(pattern=f"^{FOLDER_NAME}$", max_length=200)]
Place = Annotated[Path, AfterValidator(possible), AfterValidator(no_url)]
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


def content_hash(values: Mapping[str, Any]) -> str:
    """Return twelve hex digits that name JSON values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
