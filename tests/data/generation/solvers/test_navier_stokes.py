"""The vorticity equation: exact solutions, orders of convergence, and the published data."""

import itertools
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from dpot_scale.data.generation.solvers import navier_stokes
from dpot_scale.data.generation.solvers.navier_stokes import NavierStokes, initial_vorticity

UPSTREAM = Path(__file__).parents[3] / "upstream"


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def taylor_green(grid: int) -> Tensor:
    x = torch.arange(grid, dtype=torch.float64) / grid * 2 * torch.pi
    return torch.sin(x)[:, None] * torch.sin(x)[None, :]


def test_taylor_green_vortex_decays_exactly() -> None:
    """Its advection vanishes: w(t) = w(0) exp(-2 (2 pi)^2 viscosity t)."""
    viscosity, time = 1e-2, 3.0
    w_xy = taylor_green(16)
    frames = NavierStokes(viscosity=viscosity, forcing=0.0).evolve(
        w_xy[None], frames=3, frame_interval=time / 3
    )
    expected = w_xy * math.exp(-2 * (2 * math.pi) ** 2 * viscosity * time)
    assert relative(frames[0, -1, 0].double(), expected) < 1e-6  # stored in fp32


def test_a_carried_vortex_moves_with_the_mean_shear() -> None:
    """cos(2 pi x) alone is a steady shear flow; without viscosity and force nothing changes."""
    x = torch.arange(32, dtype=torch.float64) / 32
    w_xy = torch.cos(2 * torch.pi * x)[:, None].expand(32, 32).contiguous()
    frames = NavierStokes(viscosity=0.0, forcing=0.0).evolve(
        w_xy[None], frames=1, frame_interval=2.0
    )
    assert relative(frames[0, 0, 0].double(), w_xy) < 1e-6


def test_mean_vorticity_and_inviscid_invariants() -> None:
    """Without viscosity and force, energy and enstrophy stay; the mean is always zero."""
    w_Nxy = initial_vorticity(3, 32).double()[None]
    k = np.fft.fftfreq(32, 1 / 32)
    smooth = torch.from_numpy((np.hypot(k[:, None], k[None]) < 5).astype(float))
    w_Nxy = torch.fft.ifft2(torch.fft.fft2(w_Nxy) * smooth).real
    frames = NavierStokes(viscosity=0.0, forcing=0.0).evolve(w_Nxy, frames=2, frame_interval=1.0)
    after = frames[:, -1, 0].double()
    assert abs(float(after.mean())) < 1e-8
    assert float(after.square().mean()) == pytest.approx(float(w_Nxy.square().mean()), rel=1e-4)
    assert energy(after) == pytest.approx(energy(w_Nxy), rel=1e-4)
    assert relative(after, w_Nxy) > 0.05, "the flow must have moved for this to mean anything"


def energy(w_Nxy: Tensor) -> float:
    grid = w_Nxy.shape[-1]
    k = 2 * torch.pi * torch.fft.fftfreq(grid, 1 / grid, dtype=torch.float64)
    square = k[:, None] ** 2 + k[None, :] ** 2
    square[0, 0] = torch.inf
    return float((torch.fft.fft2(w_Nxy).abs() ** 2 / square).sum())


def test_enstrophy_balance() -> None:
    """d/dt mean(w^2) / 2 = mean(w f) - viscosity mean(|grad w|^2), by a difference in time."""
    equation = NavierStokes(viscosity=1e-3)
    interval = 0.02
    # Without its first time unit: small scales decay too fast for a difference in time.
    start = equation.evolve(initial_vorticity(1, 64)[None].double(), frames=1, frame_interval=1.0)
    before, now, after = equation.evolve(
        start[:, 0, 0].double(), frames=3, frame_interval=interval
    )[0, :, 0].double()
    rate = float((after.square().mean() - before.square().mean()) / (4 * interval))
    k = 2 * torch.pi * torch.fft.fftfreq(64, 1 / 64, dtype=torch.float64)
    spectrum = torch.fft.fft2(now).abs() ** 2 / 64**4
    dissipation = 1e-3 * float((spectrum * (k[:, None] ** 2 + k[None, :] ** 2)).sum())
    x = torch.arange(64, dtype=torch.float64) / 64
    phase = 2 * torch.pi * (x[:, None] + x[None, :])
    injection = float((now * 0.1 * (torch.sin(phase) + torch.cos(phase))).mean())
    assert rate == pytest.approx(injection - dissipation, rel=1e-3)


def test_fourth_order_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    w_Nxy = 20 * initial_vorticity(0, 32).double()[None]  # fast enough for an error to be seen

    def solution(dt: float) -> Tensor:
        monkeypatch.setattr(navier_stokes, "MAX_TIME_STEP", dt)
        stepper = navier_stokes._Stepper(NavierStokes(), 32, dt, w_Nxy)
        w_Nkl = torch.fft.rfft2(w_Nxy)
        for _ in range(round(0.4 / dt)):
            w_Nkl = stepper.step(w_Nkl)
        return torch.fft.irfft2(w_Nkl, s=(32, 32))

    exact = solution(0.4 / 256)
    errors = [relative(solution(0.4 / steps), exact) for steps in (16, 32, 64)]
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert min(orders) > 3.7, (errors, orders)


@pytest.mark.parametrize(("viscosity", "duration"), [(1e-3, 50.0), (1e-4, 40.0), (0.0, 30.0)])
def test_no_flow_is_faster_than_the_time_step_allows(viscosity: float, duration: float) -> None:
    """Long and hardly viscous runs blew up where the step did not follow the speed."""
    equation = NavierStokes(viscosity=viscosity)
    frames = equation.solve(
        range(6), grid=32, frames=10, frame_interval=duration / 10, device=torch.device("cpu")
    )
    stepper = navier_stokes._Stepper(equation, 32, 0.1, frames)
    w_kl = torch.fft.rfft2(frames[:, :, 0])
    u, v = (torch.fft.irfft2(operator * w_kl, s=(32, 32)) for operator in stepper.velocity_2kl)
    fastest = float((u.abs() + v.abs()).max())
    allowed = navier_stokes.ADVECTIVE_LIMIT / (
        equation.stable_step(32, duration) * 2 * math.pi * 32 / 3
    )
    assert 0.4 * allowed < fastest < allowed


def test_a_refined_solution_is_stored_on_the_coarse_grid() -> None:
    options = {"frames": 2, "frame_interval": 0.5, "device": torch.device("cpu")}
    fine = NavierStokes().solve([3], grid=32, **options)
    refined = NavierStokes(refinement=2.0).solve([3], grid=16, **options)
    torch.testing.assert_close(refined, fine[..., ::2, ::2], rtol=1e-5, atol=1e-5)


def test_initial_law_has_the_stated_variance() -> None:
    fields_Nxy = torch.stack([initial_vorticity(seed, 32) for seed in range(300)])
    assert abs(float(fields_Nxy.mean(dim=(1, 2)).abs().max())) < 1e-6
    k = np.fft.fftfreq(32, 1 / 32)
    square = 4 * np.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2)
    spectrum = 2 * 343 * (square + 49) ** -2.5
    expected = math.sqrt(spectrum.sum() - spectrum[0, 0])
    assert float(fields_Nxy.std()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("orientation", "viscosity", "smallest", "largest"),
    [
        ("physical", 1e-3, 0.0, 5e-4),  # measured 2.6e-4; upstream's own time error
        ("x and y exchanged", 1e-3, 0.09, 0.13),  # measured 0.109; persistence has 0.066
        ("physical", 1e-4, 0.05, 0.09),  # measured 0.072: another viscosity is noticed too
    ],
)
def test_one_time_unit_of_the_published_data(
    orientation: str, viscosity: float, smallest: float, largest: float
) -> None:
    with h5py.File(UPSTREAM / "fno_v73.mat") as file:
        fields_NTxy = torch.from_numpy(file["u"][()].transpose(3, 0, 1, 2)).double()
    if orientation == "physical":
        fields_NTxy = fields_NTxy.transpose(-1, -2)
    step = NavierStokes(viscosity=viscosity).evolve(
        fields_NTxy[:, 10].contiguous(), frames=1, frame_interval=1.0
    )
    assert smallest < relative(step[:, 0, 0].double(), fields_NTxy[:, 11]) < largest


def test_a_trajectory_depends_on_its_seed_alone() -> None:
    options = {"grid": 16, "frames": 2, "frame_interval": 0.5, "device": torch.device("cpu")}
    alone = NavierStokes().solve([7], **options)
    among = NavierStokes().solve([5, 7, 9], **options)
    torch.testing.assert_close(among[1], alone[0], rtol=1e-5, atol=1e-6)
    assert relative(among[0], alone[0]) > 0.5
