"""What is written to disk for later versions to read: each record says the version of its format.

A record of an older version is read; a newer one, or a field that is not known, is refused by one
sentence. Neither is ever taken for damage, which may be mended by doing the work again.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from dpot_scale.config.base import PositiveInt, Section
from dpot_scale.errors import UserError

FORMAT_KEY = "format"
FIRST_FORMAT = 1

R = TypeVar("R", bound="Record")


class Record(Section):
    """Base of what is written to disk as a JSON object."""

    format: PositiveInt = FIRST_FORMAT
    """The version of what is written; absent in the first ones. A newer one has another default."""

    @classmethod
    def newest_format(cls) -> int:
        """Return the version that is written, up to which all are read."""
        newest: int = cls.model_fields[FORMAT_KEY].default
        return newest


def read_record(
    kind: type[R], raw: object, place: Path | str, error: type[UserError], *, strict: bool = False
) -> R:
    """Return a record that was read from a file.

    Args:
        kind: Of the record.
        raw: What the file says, as JSON values.
        place: Where it was read, for the sentence.
        error: The kind of error to raise for a record of another version.
        strict: Whether a value of a near kind is refused, as the text of a number.

    Raises:
        UserError: another version wrote it; of the kind of `error`.
        ValidationError: it is damaged.
    """
    require_format(raw, kind.newest_format(), place, error)
    if isinstance(raw, dict):
        raw = {FORMAT_KEY: FIRST_FORMAT, **raw}
    try:
        return kind.model_validate(raw, strict=strict)
    except ValidationError as invalid:
        unknown = [
            ".".join(map(str, one["loc"]))
            for one in invalid.errors()
            if one["type"] in {"extra_forbidden", "unexpected_keyword_argument"}
        ]
        if len(unknown) == invalid.error_count():
            raise of_another_version(
                f"it has {', '.join(unknown)}, which this version does not know", place, error
            ) from invalid
        raise


def require_format(raw: object, newest: int, place: Path | str, error: type[UserError]) -> None:
    """Make sure that no newer version wrote a record.

    Args:
        raw: What a file says, as JSON values.
        newest: The newest format of such a record that this version knows.
        place: Where it was read, for the sentence.
        error: The kind of error to raise.

    Raises:
        UserError: a newer version wrote it; of the kind of `error`.
    """
    found = raw.get(FORMAT_KEY) if isinstance(raw, dict) else None
    if isinstance(found, int) and found > newest:
        known = f"{newest}" if newest == FIRST_FORMAT else f"{FIRST_FORMAT} to {newest}"
        raise of_another_version(
            f"its format is {found}, and this version reads {known}", place, error
        )


def of_another_version(reason: str, place: Path | str, error: type[UserError]) -> UserError:
    """Return the sentence on what another version wrote, as an error of a kind."""
    return error(
        f"{place} was written by another version of dpot_scale ({reason}): use the version that "
        "wrote it"
    )
