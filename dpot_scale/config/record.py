"""Records on disk that later versions read: each says the version of its format.

Records of older versions are read. A newer record, or one with an unknown field, is refused by one
sentence; it is never taken for a damaged one, for which the work would be done again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from dpot_scale.config.base import PositiveInt, Section
from dpot_scale.errors import RecordError, UserError

FORMAT_KEY = "format"
FIRST_FORMAT = 1

R = TypeVar("R", bound="Record")


class Record(Section):
    """Base of all records, which are JSON objects on disk."""

    format: PositiveInt = FIRST_FORMAT
    """The version of what is written; absent in the first ones. A newer one has another default."""

    @classmethod
    def newest_format(cls) -> int:
        """Return the newest version: the one that is written. All up to it are read."""
        newest: int = cls.model_fields[FORMAT_KEY].default
        return newest


def read_record(
    kind: type[R], raw: object, place: Path | str, error: type[UserError], *, strict: bool = False
) -> R:
    """Return the record in the JSON values of a file.

    Args:
        kind: The class of the record.
        raw: The JSON values.
        place: The file, for the sentence.
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
            raise with_unknown(unknown, place, error) from invalid
        raise


def read_kept(kind: type[R], path: Path, about: str) -> R:
    """Return the record in a JSON file that a run goes by; an empty one where there is no file.

    Args:
        kind: The class of the record.
        path: The file.
        about: What it says and what to do without it, behind its name in a sentence.

    Raises:
        RecordError: it is damaged, or another version wrote it.
    """
    try:
        return read_record(kind, from_json(path.read_bytes()), path, RecordError)
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read {path}, {about}") from error


def require_format(raw: object, newest: int, place: Path | str, error: type[UserError]) -> None:
    """Make sure that no newer version wrote a record.

    Args:
        raw: The JSON values of a file.
        newest: The newest format of such a record that this version knows.
        place: The file, for the sentence.
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


def with_unknown(fields: Sequence[str], place: Path | str, error: type[UserError]) -> UserError:
    """Return the error for a record with fields that this version does not know."""
    reason = f"it has {', '.join(fields)}, which this version does not know"
    return of_another_version(reason, place, error)


def of_another_version(reason: str, place: Path | str, error: type[UserError]) -> UserError:
    """Return the error for a record that another version wrote."""
    return error(
        f"{place} was written by another version of dpot_scale ({reason}): use the version that "
        "wrote it"
    )
