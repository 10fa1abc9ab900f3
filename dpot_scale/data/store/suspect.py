"""Finds values that no solver computes: frames of zeros amid others, and single wild numbers.

They come of files that were written or copied badly. What is genuine is let through: a fluid that
is at rest before it moves, smoke at the first frame, fields that are zero almost everywhere, a
source in one cell, shocks, and fields over many orders of magnitude.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLED_POINTS = 1024  # of a frame, to find those that deserve a closer look
SHOWN = 5  # sentences
FAR = 1e3  # times the usual deviation, and times that of all but one of the neighbours
FEWEST_POINTS = 16  # that differ from the median, to know what is usual
FADED = 1e-6  # of the largest value of a trajectory: a field that decays may reach zero
LEFT_BEHIND = 1e-4  # of a source in one cell, a frame later

Array = NDArray[Any]


@dataclass(frozen=True)
class _Wild:
    frame: int
    number: int  # of the field
    place: tuple[int, ...]
    deviation: float
    sentence: str


@dataclass
class TrajectoryCheck:
    """Takes the frames of one trajectory in order, and says what is wrong with them.

    Args:
        channels: Names of all channels.
        scored: Per channel, whether it is a field; others are not looked at.
    """

    channels: tuple[str, ...]
    scored: tuple[bool, ...]
    _peaks: list[float] = field(default_factory=list)  # of each frame, over all fields
    _dense: list[bool] = field(default_factory=list)  # whether most values of a frame are not zero
    _wild: list[_Wild] = field(default_factory=list)

    def add(self, frames_TCs: Array) -> None:
        """Take the next frames (T, C, *space), which are finite."""
        fields_TCs = frames_TCs[:, np.array(self.scored)]
        names = [name for name, scored in zip(self.channels, self.scored, strict=True) if scored]
        space, before = tuple(range(1, fields_TCs.ndim)), len(self._peaks)
        if before == 1:
            self._excuse_sources(fields_TCs[0])
        for frame, number in _candidates(fields_TCs):
            found = _wild_point(fields_TCs[frame, number])
            if found is not None:
                place, value, deviation = found
                sentence = (
                    f"{value:.3g} in {names[number]}, frame {before + frame}, at {place}, where "
                    "no value beside it is nearly as large"
                )
                self._wild.append(_Wild(before + frame, number, place, deviation, sentence))
        self._peaks += np.abs(fields_TCs).max(axis=space).tolist()
        self._dense += ((fields_TCs != 0).mean(axis=space) > 0.5).tolist()
        if before == 0 and len(fields_TCs) > 1:
            self._excuse_sources(fields_TCs[1])

    def sentences(self) -> list[str]:
        """Return what is wrong, once all frames were taken."""
        found = _zeros(np.array(self._peaks), self._dense)
        if self._wild:
            more = f" (and {len(self._wild) - 1} more)" if len(self._wild) > 1 else ""
            found.append(f"holds {self._wild[0].sentence}{more}")
        return found

    def _excuse_sources(self, second_Cs: Array) -> None:
        """Forget a point of the first frame that has spread in the second: a source."""

        def has_spread(wild: _Wild) -> bool:
            deviations = _deviations(second_Cs[wild.number])
            around = [deviations[wild.place], *_neighbours(deviations, wild.place)]
            return wild.frame == 0 and max(around) > LEFT_BEHIND * wild.deviation

        self._wild = [wild for wild in self._wild if not has_spread(wild)]


def shortened(sentences: list[str]) -> list[str]:
    """Return the first few sentences, and how many more there are."""
    more = len(sentences) - SHOWN
    rest = [f"{more} more trajectories are like these"] if more > 0 else []
    return [*sentences[:SHOWN], *rest]


def _zeros(peaks: Array, dense: list[bool]) -> list[str]:
    """Say which frames are zero everywhere though those beside them are full."""
    if not peaks.any():
        return ["is zero everywhere"] if len(peaks) else []
    zero = peaks == 0
    starts = np.flatnonzero(zero[1:] & ~zero[:-1]) + 1
    for start in starts.tolist():
        later = np.flatnonzero(~zero[start:])
        stop = start + int(later[0]) if later.size else len(peaks)
        is_full = dense[start - 1] and (stop == len(peaks) or dense[stop])
        if is_full and peaks[start - 1] > FADED * peaks.max():
            frames = f"frame {start}" if stop == start + 1 else f"frames {start} to {stop - 1}"
            return [f"is zero everywhere in {frames}, after frames that are not"]
    return []


def _candidates(fields_TCs: Array) -> list[tuple[int, int]]:
    """Return the frames and fields whose largest value is far from most of a sample."""
    points_TCn = fields_TCs.reshape(*fields_TCs.shape[:2], -1)
    sample_TCn = points_TCn[..., :: max(1, points_TCn.shape[-1] // SAMPLED_POINTS)]
    median_TC = np.median(sample_TCn, axis=-1)
    with np.errstate(over="ignore"):
        usual_TC = np.quantile(np.abs(sample_TCn - median_TC[..., None]), 0.9, axis=-1)
        highest_TC = np.abs(points_TCn.max(axis=-1) - median_TC)
        lowest_TC = np.abs(points_TCn.min(axis=-1) - median_TC)
    far_TC = np.maximum(highest_TC, lowest_TC) > FAR * np.maximum(usual_TC, _floor(median_TC))
    return [(int(frame), int(number)) for frame, number in np.argwhere(far_TC)]


def _wild_point(field_s: Array) -> tuple[tuple[int, ...], float, float] | None:
    """Return the point of the largest deviation, its value and deviation, if it stands alone."""
    deviations = _deviations(field_s)
    differing = np.sort(deviations[deviations > 0])
    if differing.size < FEWEST_POINTS:
        return None
    usual = differing[int(0.99 * (differing.size - 1))]
    place = tuple(map(int, np.unravel_index(deviations.argmax(), deviations.shape)))
    deviation = float(deviations[place])
    _, *others = sorted(_neighbours(deviations, place), reverse=True)
    if deviation <= FAR * max([usual, _floor(np.median(field_s)), *others]):
        return None
    return place, float(field_s[place]), deviation


def _deviations(field_s: Array) -> Array:
    values_s = field_s.astype(np.float64)
    deviations_s: Array = np.abs(values_s - np.median(values_s))
    return deviations_s


def _floor(median: Array) -> Array:
    """Return a deviation that is small beside the values: that of a constant is rounding alone."""
    return np.abs(median) / FAR


def _neighbours(values_s: Array, place: tuple[int, ...]) -> list[float]:
    """Return the values around a point, across the ends of an axis too, as if it were periodic."""
    steps = itertools.product((-1, 0, 1), repeat=len(place))
    around = {
        tuple((i + step) % n for i, step, n in zip(place, some, values_s.shape, strict=True))
        for some in steps
    }
    return [float(values_s[other]) for other in around - {place}]
