"""Diffusion-reaction: exact modes, order of convergence, and the published data."""

import itertools
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from dpot_scale.data.generation.solvers import reaction_diffusion
from dpot_scale.data.generation.solvers.reaction_diffusion import ReactionDiffusion

UPSTREAM = Path(__file__).parents[3] / "upstream"
CPU = torch.device("cpu")


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def cosine_mode(grid: int) -> Tensor:
    """A function of no flux at the walls of (-1, 1)^2, for u and v."""
    centres = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid * 2
    mode = torch.cos(torch.pi * centres)[:, None] * torch.cos(torch.pi / 2 * centres)[None, :]
    return torch.stack([mode, mode])[None]


def decayed(grid: int, diffusion: float, time: float) -> float:
    """The factor by which the mode falls: eigenvalue -(pi^2 + pi^2 / 4)."""
    start_NCxy = cosine_mode(grid)
    equation = ReactionDiffusion(reaction=0.0, diffusion_u=diffusion, diffusion_v=2 * diffusion)
    after = equation.advance(start_NCxy, time)
    return float((after[:, 0] * start_NCxy[:, 0]).sum() / start_NCxy[:, 0].square().sum())


def test_pure_diffusion_of_a_mode_converges_with_second_order_in_space() -> None:
    exact = math.exp(-0.02 * (math.pi**2 * 1.25))
    errors = [abs(decayed(grid, 0.02, 1.0) - exact) for grid in (8, 16, 32)]
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert min(orders) == pytest.approx(2.0, abs=0.1)
    assert errors[-1] < 1e-3 * exact


def test_a_discrete_mode_decays_at_its_own_eigenvalue() -> None:
    grid, diffusion, time = 16, 0.02, 1.0
    spacing = 2 / grid
    eigenvalue = -sum((2 - 2 * math.cos(a * math.pi / grid)) / spacing**2 for a in (1, 2))
    expected = math.exp(diffusion * eigenvalue * time)
    assert decayed(grid, diffusion, time) == pytest.approx(expected, rel=1e-8)


def test_diffusion_keeps_the_mean() -> None:
    start_NCxy = torch.randn(1, 2, 16, 16, generator=torch.manual_seed(0), dtype=torch.float64)
    after = ReactionDiffusion(reaction=0.0).advance(start_NCxy, 2.0)
    torch.testing.assert_close(after.mean((2, 3)), start_NCxy.mean((2, 3)), rtol=0, atol=1e-12)
    assert float(after.std()) < 0.9 * float(start_NCxy.std())


def test_a_uniform_state_follows_the_ordinary_differential_equation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fourth order in time, against a step a hundred times smaller."""

    def solution(steps: int) -> Tensor:
        monkeypatch.setattr(reaction_diffusion, "MAX_TIME_STEP", 2.0 / steps)
        start = torch.tensor([1.5, -0.5], dtype=torch.float64)[None, :, None, None]
        return ReactionDiffusion().advance(start.expand(1, 2, 2, 2), 2.0)

    exact = solution(1600)
    errors = [relative(solution(steps), exact) for steps in (8, 16, 32)]
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert min(orders) > 3.7, (errors, orders)


def published() -> Tensor:
    """Trajectories (N, T, C, x, y) of seeds 0 and 1; the file holds (T, y, x, C)."""
    with h5py.File(UPSTREAM / "pdebench_diffusion_reaction.h5") as file:
        return torch.from_numpy(
            np.stack([file[seed]["data"][()].transpose(0, 3, 2, 1) for seed in ("0000", "0001")])
        )


def test_the_published_trajectories_of_the_same_seeds() -> None:
    expected = published()
    ours = ReactionDiffusion().solve([0, 1], grid=32, frames=101, frame_interval=0.05, device=CPU)
    assert torch.equal(ours[:, 0], expected[:, 0]), "the initial state is the same to the last bit"
    for frame in (1, 20, 50, 100):  # measured 1.8e-3, 7e-4, 5e-4, 3e-4: upstream's tolerance
        assert relative(ours[:, frame], expected[:, frame]) < 3e-3
    assert relative(ours[:, 100], expected[:, 100].mT) > 1.0, "x and y are not exchangeable"


def test_the_first_frame_is_at_the_start_time() -> None:
    late = ReactionDiffusion(start=0.5).solve([4], grid=8, frames=2, frame_interval=0.5, device=CPU)
    early = ReactionDiffusion().solve([4], grid=8, frames=3, frame_interval=0.5, device=CPU)
    torch.testing.assert_close(late, early[:, 1:])


def test_a_trajectory_depends_on_its_seed_alone() -> None:
    options = {"grid": 16, "frames": 2, "frame_interval": 0.5, "device": CPU}
    alone = ReactionDiffusion().solve([7], **options)
    among = ReactionDiffusion().solve([5, 7, 9], **options)
    torch.testing.assert_close(among[1], alone[0])
