"""Decides which files make up a dataset, and what the trajectories of its files have in common."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dpot_scale.data.importers.axes import usual_step
from dpot_scale.data.importers.source import Array, Source
from dpot_scale.data.info import is_dataset_name
from dpot_scale.data.store.beside import INTERVAL, TIMES
from dpot_scale.data.store.shards import REAL
from dpot_scale.errors import DataError

SAME_POINT = 1e-3  # of the smallest distance of two points

Kind = list[Source]  # that agree


def datasets_of(sources: Sequence[Source]) -> tuple[list[list[Source]], list[DataError]]:
    """Return the sources of each dataset, in order and with their splits; and an error per misfit.

    The files of a dataset have the same fields, grid, coordinates and boundaries; their
    trajectories may differ in number, length and time step. A misfit differs from most files of its
    collection; it is left out.
    """
    groups: dict[str, list[Source]] = {}
    for source in sources:
        key = source.collection or f"{source.path} {source.candidates}"
        groups.setdefault(key, []).append(source)
    datasets: list[list[Source]] = []
    problems: list[DataError] = []
    for group in groups.values():
        first = group[0]
        kinds = _kinds(first.arrange(group) if first.arrange else group)
        for by_name in _by_folder(kinds) if len(kinds) > 1 else [kinds]:
            usual, *others = sorted(by_name, key=len, reverse=True)
            datasets.append(usual)
            problems += [_misfit(source, usual[0]) for kind in others for source in kind]
    return _with_common_names_said(datasets), problems


def _kinds(sources: Sequence[Source]) -> list[Kind]:
    kinds: list[Kind] = []
    for source in sources:
        kind = next((kind for kind in kinds if _difference(source, kind[0]) is None), None)
        if kind is None:
            kinds.append([source])
        else:
            kind.append(source)
    return kinds


def _difference(one: Source, other: Source) -> str | None:
    """Return in what two files of a collection differ; None if they are of one dataset."""
    for name in ("grid", "channels", "constant", "spatial_axes", "boundary"):
        if getattr(one, name) != getattr(other, name):
            return name
    return None if _same_points(one, other) else "coordinates"


def _same_points(one: Source, other: Source) -> bool:
    return len(one.coordinates) == len(other.coordinates) and all(
        np.allclose(ours, theirs, rtol=0, atol=SAME_POINT * np.abs(np.diff(theirs)).min())
        for ours, theirs in zip(one.coordinates, other.coordinates, strict=True)
    )


def _by_folder(kinds: Sequence[Kind]) -> list[list[Kind]]:
    """Return the kinds under each name: of its folder, and of its grid if a folder holds several.

    Sources without a folder have a name of their own already.
    """
    if not kinds[0][0].folder:
        return [list(kinds)]
    of_folder: dict[str, list[Kind]] = {}
    for kind in kinds:
        folders = {source.folder for source in kind if is_dataset_name(source.folder)}
        name = folders.pop() if len(folders) == 1 else str(kind[0].collection)
        of_folder.setdefault(name, []).append(kind)
    named: dict[str, list[Kind]] = {}
    for folder, inside in of_folder.items():
        grids = {kind[0].grid for kind in inside}
        for kind in inside:
            grid = "x".join(map(str, kind[0].grid))
            name = folder if len(grids) == 1 else f"{folder}_{grid}"
            called = [replace(source, candidates=(name,), collection=name) for source in kind]
            named.setdefault(name, []).append(called)
    return list(named.values())


def _misfit(source: Source, usual: Source) -> DataError:
    """Say in what a file differs from most of its collection."""
    differs = _difference(source, usual)
    left_out = f"{source.place} is left out of dataset {usual.collection}: "
    if differs == "grid":
        return DataError(
            f"{left_out}{source.describe()} every {source.frame_interval:g}, where most files have "
            f"{usual.frames} frames at {' x '.join(map(str, usual.grid))} every "
            f"{usual.frame_interval:g}"
        )
    noun = NOUNS.get(str(differs), differs)
    ours, theirs = (_said(one, str(differs)) for one in (source, usual))
    return DataError(
        f"{left_out}its {noun} are {ours}, where most files have {theirs}; import it alone and "
        "name it with --name"
    )


NOUNS = {
    "channels": "fields",
    "constant": "fields without time",
    "spatial_axes": "axes",
    "boundary": "boundaries",
}


def _said(source: Source, name: str) -> str:
    if name == "coordinates":
        return "; ".join(
            f"{axis} from {points[0]:g} over {points[1]:g} to {points[-1]:g}"
            for axis, points in zip(source.spatial_axes, source.coordinates, strict=False)
        )
    value = getattr(source, name)
    return value if isinstance(value, str) else ", ".join(value) or "none"


def _with_common_names_said(datasets: list[list[Source]]) -> list[list[Source]]:
    """Note at the first of several datasets whose files all give one name what they are called."""
    alike: dict[str, list[int]] = {}
    for number, dataset in enumerate(datasets):
        if dataset[0].folder:
            alike.setdefault(dataset[0].equation, []).append(number)
    for name, numbers in alike.items():
        if len(numbers) > 1:
            firsts = [datasets[number][0] for number in numbers]
            said = ", ".join(
                f"{one.candidates[0]} ({' x '.join(map(str, one.grid))})" for one in firsts
            )
            note = (
                f"files of {len(numbers)} datasets call themselves {name}; they become {said}; to "
                "choose a name, import the files of one alone with --name"
            )
            first = firsts[0]
            datasets[numbers[0]][0] = replace(first, notes=(note, *first.notes))
    return datasets


def remarks(sources: Sequence[Source]) -> list[str]:
    """Return what is worth knowing of a dataset before it is imported, a line each."""
    notes = list(dict.fromkeys(note for source in sources for note in source.notes))
    lengths = sorted({source.frames for source in sources})
    if len(lengths) > 1:
        notes.append(
            f"trajectories differ in length, from {lengths[0]} to {lengths[-1]} frames; each is "
            "kept whole"
        )
    steps = sorted({float(step) for source in sources for step in intervals_of(source)})
    if len(steps) > 1:
        notes.append(
            f"time steps differ, from {steps[0]:g} to {steps[-1]:g}; that of each trajectory is "
            f"its parameter {INTERVAL}"
        )
    return notes


def usual_interval(sources: Sequence[Source]) -> float:
    """Return the time step that most trajectories have."""
    return usual_step(np.concatenate([intervals_of(source) for source in sources]))


def completed(sources: Sequence[Source]) -> list[Source]:
    """Return sources whose trajectories all have the same parameters and series.

    A number that some of them lack is NaN there. Time steps are a parameter where they differ, and
    times a series where the frames of some trajectory are not evenly spaced.
    """
    steps_differ = len({float(step) for source in sources for step in intervals_of(source)}) > 1
    kinds = {name: values.dtype for one in sources for name, values in one.parameters.items()}
    series = {name for source in sources for name in source.series}
    return [
        replace(
            source,
            parameters={name: _values(source, name, kind) for name, kind in kinds.items()}
            | ({INTERVAL: intervals_of(source)} if steps_differ else {}),
            series={name: _numbers_per_frame(source, name) for name in sorted(series)},
        )
        for source in sources
    ]


def intervals_of(source: Source) -> Array:
    """Return (N,): the time step of each trajectory."""
    if source.intervals is not None:
        return source.intervals
    return np.full(source.trajectories, source.frame_interval)


def _values(source: Source, name: str, kind: np.dtype[Any]) -> Array:
    if name in source.parameters:
        return source.parameters[name]
    if kind.kind in REAL:
        return np.full(source.trajectories, np.nan)
    return np.zeros(source.trajectories, kind)  # an empty text


def _numbers_per_frame(source: Source, name: str) -> Array:
    if name in source.series:
        return source.series[name]
    frames = np.arange(source.frames)
    if name == TIMES:
        return intervals_of(source)[:, None] * frames
    return np.full((source.trajectories, source.frames), np.nan)
