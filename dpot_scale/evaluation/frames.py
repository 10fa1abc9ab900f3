"""Frames of one held-out forecast, which a run keeps for reports that show several models.

Legend: L lead times, C fields, x y points.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from dpot_scale.config.base import PositiveInt
from dpot_scale.config.record import Record, read_record
from dpot_scale.data.importers.source import DAMAGE
from dpot_scale.data.info import DatasetInfo, has_unit
from dpot_scale.data.store.faults import require_machine
from dpot_scale.errors import RecordError
from dpot_scale.evaluation.example import Example
from dpot_scale.files import replacing

if TYPE_CHECKING:
    from dpot_scale.evaluation.evaluator import DatasetEvaluation

START, END = "frames_", ".npz"  # of the name of a file, around that of its dataset
FIELDS = ("truth", "forecast")  # in a file, (L, C, x, y) each


class About(Record):
    """What a file says of its frames; a JSON text in it."""

    format: PositiveInt = 1
    info: dict[str, object]
    leads: tuple[PositiveInt, ...]
    times: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A forecast of one trajectory; of 3D fields the plane through the middle of the last axis."""

    info: DatasetInfo
    times: tuple[float, ...]  # of each lead time, since the last known frame
    example: Example  # frames (L, C, x, y)

    def words(self, number: int) -> str:
        """Return a lead time for people, as `+2 frames, t = 0.5 s`."""
        lead, unit = self.example.leads[number], self.info.time_unit
        time = f"{self.times[number]:.3g}{f' {unit}' if has_unit(unit) else ''}"
        return f"+{lead} frame{'s' * (lead > 1)}, t = {time}"

    def at(self, numbers: Sequence[int]) -> "Shown":
        """Return the frames of these numbers, from 0."""
        chosen = list(numbers)
        example = Example(
            leads=tuple(self.example.leads[number] for number in chosen),
            truth_LCs=self.example.truth_LCs[chosen],
            forecast_LCs=self.example.forecast_LCs[chosen],
        )
        times = tuple(self.times[number] for number in chosen)
        return replace(self, times=times, example=example)


def save_frames(folder: Path, evaluations: Mapping[str, "DatasetEvaluation"]) -> list[Path]:
    """Write the frames of each dataset into a folder, and return the files.

    Raises:
        DiskError: they cannot be written.
    """
    files = []
    for name, evaluation in evaluations.items():
        if (shown := evaluation.shown) is None:
            continue
        about = About(
            info=TypeAdapter(DatasetInfo).dump_python(shown.info, mode="json"),
            leads=shown.example.leads,
            times=shown.times,
        )
        files.append(folder / f"{START}{name}{END}")
        with replacing(files[-1]) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
                about=np.frombuffer(about.model_dump_json().encode(), np.uint8),
                truth=shown.example.truth_LCs.astype(np.float32),
                forecast=shown.example.forecast_LCs.astype(np.float32),
            )
    return files


def read_frames(folder: Path) -> dict[str, Shown]:
    """Return the frames in a folder by dataset; none where no run has kept any.

    Raises:
        RecordError: a file is damaged, or another version wrote it.
    """
    files = sorted(folder.glob(f"{START}*{END}"))
    return {file.name.removeprefix(START).removesuffix(END): _read(file) for file in files}


def _read(file: Path) -> Shown:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            raw = json.loads(arrays["about"].tobytes())
            truth, forecast = (np.asarray(arrays[name], np.float32) for name in FIELDS)
        about = read_record(About, raw, file, RecordError)
        info = TypeAdapter(DatasetInfo).validate_json(json.dumps(about.info))
    except DAMAGE as error:
        if isinstance(error, OSError):  # a damaged file may ask for more memory than there is
            require_machine(file, error)
        raise RecordError(
            f"{file} holds no frames of a forecast that this version of dpot_scale can read "
            f"({' '.join(str(error).split())}): remove it, and reports go without its pictures"
        ) from error
    expected = (len(about.leads), len(info.channels))
    if truth.ndim != 4 or truth.shape[:2] != expected or forecast.shape != truth.shape:
        raise RecordError(f"{file} holds frames of another shape than it says: remove it")
    example = Example(leads=about.leads, truth_LCs=truth, forecast_LCs=forecast)
    return Shown(info=info, times=about.times, example=example)
