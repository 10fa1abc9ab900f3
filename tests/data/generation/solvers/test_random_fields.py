"""The initial laws of the compressible flows, as PDEBench states them."""

import math

import numpy as np
import pytest

from dpot_scale.data.generation.solvers.random_fields import GAMMA, random_flow, turbulent_flow

SEEDS = range(200)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_random_flow_has_the_stated_mach_number_and_ranges(dims: int) -> None:
    grid = 32 if dims == 2 else 12
    boxed = 0
    for seed in SEEDS if dims == 2 else range(30):
        density, *velocity, pressure = random_flow(seed, grid, dims, mach=0.5)
        speed = np.sqrt(sum(v**2 for v in velocity))
        sound = math.sqrt(GAMMA * np.median(pressure / density))
        is_boxed = bool((speed < 1e-9 * speed.max()).any())
        boxed += is_boxed
        if not is_boxed:
            assert speed.mean() / sound == pytest.approx(0.5, rel=0.25)
        assert density.min() > 0.1 * 0.1 * 0.99
        assert density.max() < 20
        assert pressure.min() > 0
    share = boxed / (200 if dims == 2 else 30)
    assert 0.35 < share < 0.65, "every second flow is inside a box"


def test_outside_the_box_the_gas_is_uniform_and_at_rest() -> None:
    flows = [random_flow(seed, 64, 2, mach=1.0) for seed in range(20)]
    boxed = [flow for flow in flows if (np.hypot(flow[1], flow[2]) < 1e-6).any()]
    assert len(boxed) > 3
    for density, vx, vy, pressure in boxed:
        resting = np.hypot(vx, vy) < 1e-6
        assert density[resting].std() < 1e-6 * density.mean()
        assert pressure[resting].std() < 1e-6 * pressure.mean()
        assert 1 - resting.mean() == pytest.approx((0.45 + 0.2) ** 2, abs=0.1)
        # The corner keeps the box inside the unit square.
        assert resting[0].all()
        assert resting[:, 0].all()


def test_the_spectrum_falls_as_stated() -> None:
    """Energy per wave number k is |k|^-1, on wave numbers of 1 to 4 along each axis alone."""
    power = np.zeros((16, 16))
    count = 0
    for seed in SEEDS:
        _, vx, vy, _ = random_flow(seed, 16, 2, mach=1.0)
        if (np.hypot(vx, vy) < 1e-6).any():
            continue  # inside a box
        power += np.abs(np.fft.fft2(vx)) ** 2 / (vx**2).mean()
        count += 1
    power /= count
    assert power[1, 1] / power[4, 4] == pytest.approx(4.0, rel=0.3)
    assert power[2, 1] / power[1, 2] == pytest.approx(1.0, rel=0.3)
    assert power[0].max() < 1e-9 * power.max()
    assert power[:, 0].max() < 1e-9 * power.max()
    assert power[5:12].max() < 1e-9 * power.max()


@pytest.mark.parametrize("dims", [2, 3])
def test_turbulence_starts_without_divergence_at_the_stated_mach_number(dims: int) -> None:
    grid, mach = 16, 0.1
    density, *velocity, pressure = turbulent_flow(3, grid, dims, mach=mach)
    assert (density == 1).all()
    speed = np.sqrt(sum(v**2 for v in velocity)).mean()
    assert speed == pytest.approx(1.0)
    assert speed / math.sqrt(GAMMA * pressure.mean()) == pytest.approx(mach)
    k = np.fft.fftfreq(grid, 1 / grid)
    waves = np.meshgrid(*[k] * dims, indexing="ij")
    spectra = [np.fft.fftn(v) for v in velocity]
    divergence = sum(wave * of_axis for wave, of_axis in zip(waves, spectra, strict=True))
    assert np.abs(divergence).max() < 1e-10 * max(np.abs(s).max() for s in spectra)
    assert all(np.abs(s).max() > 1 for s in spectra)


@pytest.mark.parametrize("law", [random_flow, turbulent_flow])
def test_a_seed_draws_the_same_flow_on_every_grid(law) -> None:
    """Cells of the coarse grid are the middle ones of three fine cells each way."""
    coarse, fine = law(1, 16, 2, mach=1.0), law(1, 48, 2, mach=1.0)
    fine = fine[:, 1::3, 1::3]
    scale = np.abs(fine).max(axis=(1, 2))
    # Speed and variation are normalised by a mean over the grid.
    assert (np.abs(coarse - fine).max(axis=(1, 2)) < 0.02 * scale).all()
    assert np.abs(law(2, 16, 2, mach=1.0) - coarse).max() > 0.1
