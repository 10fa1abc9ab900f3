"""The errors that an evaluation reports, per frame and field, in double precision.

Legend: B trajectories, T frames, C fields, s any number of space axes, K modes.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from dpot_scale.evaluation.scores import MAX_ERROR

# Cycles in the domain at which the middle and the high band begin (PDEBench, arXiv 2210.07182).
BAND_EDGES = (4, 12)

# Added to the variance of a truth, as The Well does.
VARIANCE_FLOOR = 1e-7


def frame_errors(
    forecast_BTCs: Tensor, truth_BTCs: Tensor, inside_Bs: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the metrics of single frames but `rel_l2`, (B, T, C) each.

    A field that is zero in a frame of the truth has no relative error, and one that is the same at
    all points no `vrmse`: such values mean nothing, see `is_zero` and `is_constant`.

    Args:
        forecast_BTCs: The forecast.
        truth_BTCs: What it is compared with.
        inside_Bs: Which points count; at others both are zero. None: all.
    """
    error_BTCs, truth_BTCs = forecast_BTCs.double() - truth_BTCs, truth_BTCs.double()
    bands = spectral_errors(error_BTCs, truth_BTCs)
    return {
        "vrmse": vrmse(error_BTCs, truth_BTCs, inside_Bs),
        "nrmse": nrmse(error_BTCs, truth_BTCs),
        MAX_ERROR: max_error(error_BTCs),
        **{f"spectral_{name}": bands[i] for i, name in enumerate(("low", "mid", "high"))},
    }


def vrmse(error_BTCs: Tensor, truth_BTCs: Tensor, inside_Bs: Tensor | None = None) -> Tensor:
    """Return The Well's variance scaled error of each frame and field.

    sqrt(mean((u - v)^2) / (mean((v - mean(v))^2) + 1e-7)), means over the points that count (Ohana
    et al., arXiv 2412.00568). The mean of the truth, as a forecast, has the error 1.
    """
    axes = _space(truth_BTCs)
    inside_Bs = torch.ones_like(truth_BTCs[:, 0, 0]) if inside_Bs is None else inside_Bs
    inside_B11s = inside_Bs.to(truth_BTCs)[:, None, None]
    points = inside_B11s.sum(axes)
    mean = (truth_BTCs.sum(axes) / points).view(*truth_BTCs.shape[:3], *[1] * len(axes))
    variance = ((truth_BTCs - mean) * inside_B11s).square().sum(axes) / points
    return (error_BTCs.square().sum(axes) / points / (variance + VARIANCE_FLOOR)).sqrt()


def nrmse(error_BTCs: Tensor, truth_BTCs: Tensor) -> Tensor:
    """Return PDEBench's normalised error of each frame and field.

    sqrt(mean((u - v)^2)) / sqrt(mean(v^2)), means over the points (Takamoto et al., arXiv
    2210.07182, nRMSE).
    """
    axes = _space(truth_BTCs)
    return (error_BTCs.square().mean(axes) / truth_BTCs.square().mean(axes)).sqrt()


def max_error(error_BTCs: Tensor) -> Tensor:
    """Return max |u - v| over the points of each frame and field (PDEBench's maximum error).

    It is infinite where a forecast is not finite.
    """
    return error_BTCs.abs().nan_to_num(nan=math.inf, posinf=math.inf).amax(_space(error_BTCs))


def spectral_errors(error_BTCs: Tensor, truth_BTCs: Tensor) -> Tensor:
    """Return (3, B, T, C): the error of each frame and field in the low, middle and high band.

    sqrt(sum of |F(u - v)(k)|^2 over the k of the band) / sqrt(mean(v^2)), with F the discrete
    Fourier transform divided by the number of points, and |k| the length of the vector of whole
    cycles along each axis. The bands are those of PDEBench's fRMSE (Takamoto et al., arXiv
    2210.07182): |k| < 4, 4 <= |k| < 12, 12 <= |k|. As in the binned spectral error of The Well the
    squares of the bands sum to that of the whole error, so theirs sum to nrmse^2.
    """
    energy_BTCK = energies(error_BTCs)
    bands_3K = _bands(tuple(truth_BTCs.shape[3:]), energy_BTCK.device)
    share_BTC3 = energy_BTCK @ bands_3K.T / truth_BTCs.square().mean(_space(truth_BTCs))[..., None]
    return share_BTC3.sqrt().movedim(-1, 0)


def energies(frames_BTCs: Tensor) -> Tensor:
    """Return (B, T, C, K): |F|^2 of every mode of a real transform.

    Those that stand for two modes count twice, so their sum is the mean square of the frame.
    """
    axes = _space(frames_BTCs)
    modes = torch.fft.rfftn(frames_BTCs, dim=axes, norm="forward")
    energy = modes.abs().square()
    points = frames_BTCs.shape[-1]
    last = torch.arange(energy.shape[-1], device=energy.device)
    stands_alone = (last == 0) | (2 * last == points)
    times = torch.where(stands_alone, 1.0, 2.0)
    energy_BTCK: Tensor = (energy * times).flatten(3)
    return energy_BTCK


@lru_cache(maxsize=8)
def wave_numbers(space: tuple[int, ...]) -> Tensor:
    """Return (K,): |k| of the modes of a real transform, in cycles per domain."""
    axes = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in space[:-1]]
    axes.append(torch.fft.rfftfreq(space[-1], 1 / space[-1], dtype=torch.float64))
    squares = [axis.square() for axis in torch.meshgrid(*axes, indexing="ij")]
    return torch.stack(squares).sum(0).sqrt().flatten()


@lru_cache(maxsize=8)
def _bands(space: tuple[int, ...], device: torch.device) -> Tensor:
    """Return (3, K): 1 where a mode belongs to a band."""
    waves_K = wave_numbers(space)
    middle, high = BAND_EDGES
    masks = (waves_K < middle, (waves_K >= middle) & (waves_K < high), waves_K >= high)
    return torch.stack(masks).double().to(device)


def shells(frames_BTCs: Tensor) -> Tensor:
    """Return (B, T, C, shells): the energy spectrum of each frame and field.

    Of shell k, from 0 to half the points of the shortest axis: the sum of |F|^2 over the modes with
    |k| within half a cycle of it.
    """
    space = tuple(frames_BTCs.shape[3:])
    last = min(space) // 2
    shell_K = wave_numbers(space).round().long()
    kept_K = shell_K <= last
    energy_BTCK = energies(frames_BTCs.double()).cpu()[..., kept_K]
    spectrum = torch.zeros(*energy_BTCK.shape[:3], last + 1, dtype=torch.float64)
    spectrum.index_add_(3, shell_K[kept_K], energy_BTCK)
    return spectrum


def is_constant(truth_BTCs: Tensor, inside_Bs: Tensor | None = None) -> Tensor:
    """Return (B, T, C): whether a field is the same at all points that count."""
    axes = _space(truth_BTCs)
    if inside_Bs is None:
        return truth_BTCs.amax(axes) == truth_BTCs.amin(axes)
    inside = inside_Bs[:, None, None]
    highest = truth_BTCs.where(inside, -math.inf).amax(axes)
    return highest <= truth_BTCs.where(inside, math.inf).amin(axes)


def _space(frames_BTCs: Tensor) -> tuple[int, ...]:
    return tuple(range(3, frames_BTCs.ndim))
