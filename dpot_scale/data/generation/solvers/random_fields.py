"""The random initial states of the compressible flows, as PDEBench states them.

A field is a sum over wave numbers k with components of -4 to 4, none of them zero,

    s(x) = sum_k |k|^-p sin(2 pi k.x + phi_k),   phi_k uniform on (0, 2 pi),

at the cell centres of the unit square or cube. A seed draws the same field on every grid.

Legend: Q density, velocity, pressure; K wave numbers; the space axes are written as _.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

GAMMA = 5 / 3
LARGEST_WAVE_NUMBER = 4
EDGE = 0.01  # width of the box's edges
SMALLEST_RATIO = 0.1  # of density or pressure to its mean, where large sums would make it negative

Array = NDArray[np.float64]


def random_flow(seed: int, grid: int, dims: int, *, mach: float) -> Array:
    """Return density, velocity and pressure (Q, _) of mean Mach number `mach`.

    Density and pressure vary by 1 to 20 % about means that are uniform in (0.1, 10), the pressure
    as density times a temperature. With probability one half, all this is inside a box of edge
    0.45, and outside it the gas is uniform and at rest.
    """
    random = np.random.default_rng(seed)
    density, temperature = random.uniform(0.1, 10, 2)
    speed = mach * math.sqrt(GAMMA * temperature)
    variation = random.uniform(0.01, 0.2, 2)
    corner = random.uniform(0.1, 0.45, dims)
    inside = _box(corner, grid) if random.random() < 0.5 else np.ones((grid,) * dims)
    waves_K = _waves(dims)
    phases = random.uniform(0, 2 * math.pi, (dims + 2, len(waves_K)))
    amplitude_K = np.linalg.norm(waves_K, axis=1) ** -0.5
    series = _series(waves_K, amplitude_K * np.exp(1j * phases), grid)
    velocity = inside * _of_mean_speed(series[:dims], speed)
    noise = series[dims:] / np.abs(series[dims:]).mean(tuple(range(1, dims + 1)), keepdims=True)
    noise = noise * variation.reshape(2, *[1] * dims)
    ratio = 1 + inside * (np.maximum(1 + noise, SMALLEST_RATIO) - 1)
    return np.stack([density * ratio[0], *velocity, density * temperature * ratio[1]])


def turbulent_flow(seed: int, grid: int, dims: int, *, mach: float) -> Array:
    """Return density 1, a velocity (Q, _) without divergence of mean 1, and uniform pressure."""
    waves_K = _waves(dims)
    phases = np.random.default_rng(seed).uniform(0, 2 * math.pi, (dims, len(waves_K)))
    square_K = (waves_K**2).sum(1)
    coefficients = square_K ** (-0.25 if dims == 2 else -0.5) * np.exp(1j * phases)
    along_wave_K = np.einsum("ka,ak->k", waves_K, coefficients) / square_K
    velocity = _of_mean_speed(_series(waves_K, coefficients - along_wave_K * waves_K.T, grid), 1.0)
    one = np.ones((grid,) * dims)
    return np.stack([one, *velocity, one / (GAMMA * mach**2)])


def _waves(dims: int) -> Array:
    """Return the wave numbers (K, dims)."""
    components = [k for k in range(-LARGEST_WAVE_NUMBER, LARGEST_WAVE_NUMBER + 1) if k]
    return np.array(list(itertools.product(components, repeat=dims)), dtype=np.float64)


def _series(waves_K: Array, coefficients: NDArray[np.complex128], grid: int) -> Array:
    """Return the imaginary part of sum_k c_k exp(2 pi i k.x), for rows of coefficients (..., K)."""
    dims = waves_K.shape[1]
    spectrum = np.zeros((len(coefficients), *[grid] * dims), dtype=np.complex128)
    places = tuple(waves_K.astype(int).T % grid)
    to_centres_K = np.exp(1j * math.pi * waves_K.sum(1) / grid)
    for of_row, row in zip(spectrum, coefficients, strict=True):
        np.add.at(of_row, places, row * to_centres_K)  # on coarse grids places coincide
    series: Array = np.fft.ifftn(spectrum, axes=range(1, dims + 1), norm="forward").imag
    return series


def _of_mean_speed(velocity: Array, speed: float) -> Array:
    """Return a velocity (dims, _) scaled to a mean absolute value."""
    return velocity * speed / float(np.sqrt((velocity**2).sum(0)).mean())


def _box(corner: Array, grid: int) -> Array:
    """Return 1 inside a box of edge 0.45, 0 outside, with smooth edges."""
    centres = (np.arange(grid) + 0.5) / grid
    inside = np.ones(())
    for low in corner:
        profile = (np.tanh((centres - low) / EDGE) - np.tanh((centres - low - 0.45) / EDGE)) / 2
        inside = np.multiply.outer(inside, profile)
    return inside
