"""Parameters and FLOPs of an FNO, by formula. No torch here, so plans stay cheap."""

from math import prod

from dpot_scale.models.counting import FLOPS_PER_MAC, REAL_PRODUCTS, dense
from dpot_scale.models.family import Flops, Matrices, ParameterCount, Recompute
from dpot_scale.models.fno.config import PROJECTION, FNOConfig


def count_parameters(config: FNOConfig) -> ParameterCount:
    """Return the number of parameters of each part."""
    width, hidden = config.width, PROJECTION * config.width
    block = count_spectral(config) + dense(width, width)
    return ParameterCount(
        {
            "lift": dense(config.inputs, width),
            "statistics": dense(2 * config.channels, width),
            "blocks": config.depth * block,
            "output": dense(width, hidden) + dense(hidden, config.horizon * config.channels),
        }
    )


def count_spectral(config: FNOConfig) -> int:
    """Return the parameters of the complex matrices of a block, as real numbers."""
    return int(2 * prod(config.spectrum) * config.width**2)


def matrix_shapes(config: FNOConfig) -> tuple[Matrices, ...]:
    """Return the matrices of all blocks: a real and an imaginary one for modes, one for points."""
    number = config.depth * (2 * prod(config.spectrum) + 1)
    return (Matrices(number, config.width, config.width),)


def count_flops(config: FNOConfig, recompute: Recompute) -> Flops:
    """Return the FLOPs of one window, the Fourier transforms among them.

    The transforms of the few modes that are kept are products with matrices. Of a narrow model they
    are the larger part.
    """
    width, hidden, points = config.width, PROJECTION * config.width, prod(config.space)
    block = (
        points * width**2
        + REAL_PRODUCTS * prod(config.spectrum) * width**2
        + 2 * _transform_macs(config)
    )
    ends = points * (config.inputs * width + hidden * (width + config.horizon * config.channels))
    ends += 2 * config.channels * width
    # Selective: no part of a block is worth it.
    again = 0 if recompute.blocks == "selective" else recompute.repeated(config.depth)
    return Flops(
        forward=float(FLOPS_PER_MAC * (ends + config.depth * block)),
        recomputed=float(FLOPS_PER_MAC * again * block),
    )


def _transform_macs(config: FNOConfig) -> int:
    """Return the products of a transform, the same in both directions.

    The last axis comes first, and has real values; of the others both parts come and go.
    """
    *before, points = config.space
    *full, half = config.spectrum
    macs = prod(before) * points * 2 * half
    done = half
    while before:
        points, modes = before.pop(), full.pop()
        macs += prod(before) * points * REAL_PRODUCTS * modes * done
        done *= modes
    return int(macs * config.width)
