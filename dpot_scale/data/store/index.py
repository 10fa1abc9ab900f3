"""Reads the index of a stored dataset, `index.json`, and refuses one that contradicts itself."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Literal, Self

from pydantic import ValidationError, model_validator
from pydantic_core import from_json

from dpot_scale.config.base import PositiveInt, Section, possible
from dpot_scale.config.record import FIRST_FORMAT, Record, read_record
from dpot_scale.config.sentences import sentence
from dpot_scale.data.info import MASK, DatasetInfo
from dpot_scale.data.store.faults import require_machine
from dpot_scale.data.store.shards import TRAJECTORY, Shard, View
from dpot_scale.data.store.statistics import Statistics
from dpot_scale.errors import DataError
from dpot_scale.files import check_regular

CFDBENCH = ["u", "v", MASK]  # its channels
# What importers write into `source` of the layout of plain arrays.
LAYOUT_SAID, DOMAIN_SAID = ", layout ", ", domain "


class Splits(Section):
    """The shards of each split, in the order of their trajectories."""

    train: tuple[Shard, ...]
    valid: tuple[Shard, ...] = ()
    test: tuple[Shard, ...]

    def by_name(self) -> dict[Literal["train", "valid", "test"], tuple[Shard, ...]]:
        """Return the shards of each split."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


class Description(Section):
    """The description of a dataset."""

    info: DatasetInfo

    @model_validator(mode="after")
    def _check(self) -> Self:
        problem = next(self._problems(), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        yield from _info_problems(self.info)


class StoredIndex(Record, Description):
    """The description of a dataset, its statistics, and its shards.

    Since format 2 trajectories differ in length, from shard to shard, there is a split `valid`, and
    the description says which channel is a fluid mask. Since format 3 it says units, and whether
    the lengths of the domain are known.
    """

    format: PositiveInt = 3
    statistics: Statistics
    splits: Splits

    @model_validator(mode="before")
    @classmethod
    def _read_format_1(cls, raw: object) -> object:
        """Find the fluid mask of an index that does not say it: our solvers' and CFDBench's."""
        match raw:
            case {
                "format": 1,
                "info": {"channels": [*channels], "scored": [*scored], **others},
                **rest,
            }:
                is_known = others.get("origin") == "generated" or channels == CFDBENCH
                if is_known and (MASK, False) in zip(channels, scored, strict=False):
                    info = {**others, "channels": channels, "scored": scored, "fluid_mask": MASK}
                    return {**rest, "format": 1, "info": info}
        return raw

    @model_validator(mode="before")
    @classmethod
    def _read_lengths(cls, raw: object) -> object:
        """Find plain arrays of earlier formats whose lengths are unknown: 1 each stood for it."""
        match raw:
            case {
                "format": 1 | 2 as version,
                "info": {"origin": "imported", "source": str(source), **others},
                **rest,
            } if LAYOUT_SAID in source and DOMAIN_SAID not in source:
                info = {**others, "origin": "imported", "source": source, "has_lengths": False}
                return {**rest, "format": version, "info": info}
        return raw

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        channels = len(self.info.channels)
        for name in ("mean", "std"):
            values = getattr(self.statistics, name)
            if len(values) != channels:
                yield f"statistics.{name} has {len(values)} values for {channels} channels"
        for split, shards in self.splits.by_name().items():
            for number, shard in enumerate(shards):
                for problem in _shard_problems(shard, self.info):
                    yield f"splits.{split}.{number}: {problem}"
            lengths = {shard.frames for shard in shards}
            if len(lengths) > 1 and self.format == FIRST_FORMAT:
                yield f"splits.{split}: frames differ, from {min(lengths)} to {max(lengths)}"


def read_index(path: Path) -> StoredIndex:
    """Return the index that lies in a file.

    Raises:
        DataError: it cannot be read, contradicts itself, or another version wrote it.
        MachineError: it cannot be read now, and may be intact.
    """
    raw: object = None
    try:
        check_regular(path)
        raw = from_json(path.read_bytes())
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")  # noqa: TRY004, TRY301 - one sentence for all
        return read_record(StoredIndex, raw, path, DataError)
    except ValidationError as error:
        reason = sentence(StoredIndex, raw, error.errors(), {})
    except (OSError, ValueError) as error:
        require_machine(path, error)
        reason = str(error)
    raise DataError(f"{path} is not a dataset index ({reason}); make the dataset anew")


def validate_info(info: DatasetInfo) -> DatasetInfo:
    """Return a description as its index will hold it, with plain numbers for NumPy's.

    Raises:
        DataError: a value is of the wrong kind, or two values contradict each other.
    """
    raw = {"info": asdict(info)}
    try:
        return Description.model_validate(raw).info
    except ValidationError as error:
        reason = sentence(Description, raw, error.errors(), {})
        raise DataError(f"dataset {info.name} cannot be stored: {reason}") from None


def _info_problems(info: DatasetInfo) -> Iterator[str]:
    channels = len(info.channels)
    if len(set(info.channels)) != channels or not channels:
        yield "info.channels must be names, each once"
    if len(info.scored) != channels:
        yield f"info.scored has {len(info.scored)} values for {channels} channels"
    if not any(info.scored):
        yield "info.scored must mark at least one channel as a field"
    constant = [
        name for name, scored in zip(info.channels, info.scored, strict=False) if not scored
    ]
    if info.fluid_mask and info.fluid_mask not in constant:
        yield f"info.fluid_mask={info.fluid_mask!r} is no channel that info.scored leaves out"
    if info.units and len(info.units) != channels:
        yield f"info.units has {len(info.units)} values for {channels} channels"
    yield from _axis_problems(info)


def _axis_problems(info: DatasetInfo) -> Iterator[str]:
    axes = len(info.spatial_axes)
    if len(set(info.spatial_axes)) != axes or not axes:
        yield "info.spatial_axes must be names, each once"
    for name in ("grid", "domain_length"):
        values = getattr(info, name)
        if len(values) != axes:
            yield f"info.{name} has {len(values)} values for {axes} spatial axes"
    points = tuple(len(of_axis) for of_axis in info.coordinates)
    if points and points != info.grid:
        yield f"info.coordinates are of {points} points, and info.grid is {info.grid}"


def _shard_problems(shard: Shard, info: DatasetInfo) -> Iterator[str]:
    if shard.view is not None:
        yield from _view_problems(shard, shard.view, info)
        return
    file = PurePath(shard.file)
    try:
        possible(Path(shard.file))
    except ValueError as error:
        yield f"file={shard.file!r}: {error}"
    if file.is_absolute() or ".." in file.parts or not file.parts:
        yield f"file={shard.file!r} does not lie in the folder of the dataset"


def _view_problems(shard: Shard, view: View, info: DatasetInfo) -> Iterator[str]:
    for name in ("file", "trajectories", "frames"):
        said, viewed = getattr(shard, name), getattr(view, name)
        if said != viewed:
            yield f"{name} is {said!r} here and {viewed!r} in its view"
    if view.spatial_axes != info.spatial_axes:
        yield f"view.spatial_axes is {view.spatial_axes}, and {info.spatial_axes} in info"
    if view.grid not in ((), info.grid):
        yield f"view.grid is {view.grid}, and {info.grid} in info"
    if not view.arrays:
        yield "view.arrays is empty"
    if any(len(set(array.axes)) != len(array.axes) for array in view.arrays):
        yield "view.arrays names an axis twice"
    if all(TRAJECTORY not in array.axes for array in view.arrays) and shard.trajectories > 1:
        yield f"trajectories={shard.trajectories}, but no array of its view has more than one"
