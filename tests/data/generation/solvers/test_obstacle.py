"""The problems of CFDBench: what each trajectory draws, its mask and its seed."""

import collections

import pytest
import torch
from torch import Tensor

from dpot_scale.data.generation.solvers.obstacle import (
    SHARES,
    Cavity,
    Cylinder,
    LaminarFlow,
    ObstacleMixture,
    Tube,
    problem_of,
)

CPU = torch.device("cpu")
PROBLEMS = [Cavity(latest_start=1.0), Tube(latest_start=1.0), Cylinder(latest_start=1.0)]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_is_drawn_is_within_its_bounds_and_by_the_logarithm(problem: LaminarFlow) -> None:
    cases = [problem.draw(seed) for seed in range(300)]
    for drawn, low, high in (
        ([c.reynolds for c in cases], problem.smallest_reynolds, problem.largest_reynolds),
        ([c.speed for c in cases], problem.smallest_speed, problem.largest_speed),
    ):
        assert low <= min(drawn) < 1.1 * low
        assert 0.9 * high < max(drawn) <= high
        below = sum(value < (low * high) ** 0.5 for value in drawn)
        assert 120 < below < 180, "half of them are below the geometric mean"
    assert min(c.start for c in cases) > 0
    assert 0.9 < max(c.start for c in cases) <= 1.0


def test_the_mask_is_the_cylinder_and_nothing_flows_in_it() -> None:
    cylinder = Cylinder(latest_start=1.0)
    fields = cylinder.solve([0, 1], grid=48, frames=2, frame_interval=0.5, device=CPU)
    flow, mask = fields[:, :, :2], fields[:, :, 2]
    assert torch.equal(mask[:, 0], mask[:, 1])
    assert mask.unique().tolist() == [0.0, 1.0]
    assert float(flow.abs().amax(2)[mask == 0].max()) == 0.0
    length, height = cylinder.domain_length
    for seed in (0, 1):
        case = cylinder.draw(seed)
        x, y = (1 - mask[seed, 0]).nonzero().double().add(0.5).div(48).T
        assert float((x * length).mean()) == pytest.approx(3.0, abs=0.12)
        assert float(((y - 0.5) * height).mean()) == pytest.approx(case.height, abs=0.07)
        area = float((1 - mask[seed, 0]).sum()) * length * height / 48**2
        assert area == pytest.approx(torch.pi / 4 * case.diameter**2, rel=0.15)


@pytest.mark.parametrize("problem", PROBLEMS[:2])
def test_without_an_obstacle_everything_is_fluid(problem: LaminarFlow) -> None:
    fields = problem.solve([0], grid=12, frames=1, frame_interval=0.5, device=CPU)
    assert torch.equal(fields[:, :, 2], torch.ones(1, 1, 12, 12))


def test_the_flow_is_as_fast_as_the_case_says() -> None:
    tube, seeds = Tube(), [0, 1, 2]
    fields = tube.solve(seeds, grid=16, frames=1, frame_interval=1.0, device=CPU)
    means = fields[:, 0, 0].mean((1, 2))
    expected = torch.tensor([tube.draw(seed).speed for seed in seeds])
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=0)


def test_the_reynolds_number_is_of_the_diameter_that_is_drawn() -> None:
    cylinder = Cylinder()
    cases = [cylinder.draw(seed) for seed in range(3)]
    vessel = cylinder.vessel(cases, 16, CPU)
    for case, viscosity in zip(cases, vessel.viscosity_N.tolist(), strict=True):
        assert case.diameter / viscosity == pytest.approx(case.reynolds, rel=1e-5)


def test_the_first_frame_is_at_the_time_that_is_drawn() -> None:
    """A start at most 0 is a flow at rest, and its next frame has just begun to flow."""
    rest = Cavity(latest_start=0.0).solve([0], grid=12, frames=2, frame_interval=0.5, device=CPU)
    assert float(rest[0, 0, :2].abs().max()) == 0.0
    case = Cavity(latest_start=0.5).draw(0)
    late = Cavity(latest_start=0.5).solve([0], grid=12, frames=1, frame_interval=1.0, device=CPU)
    until = Cavity(latest_start=0.0).solve(
        [0], grid=12, frames=2, frame_interval=case.start, device=CPU
    )
    torch.testing.assert_close(late[:, 0], until[:, 1], rtol=1e-5, atol=1e-5)


def test_a_mixture_has_the_published_shares_of_what_the_problems_solve() -> None:
    counts = collections.Counter(problem_of(seed) for seed in range(2000))
    for problem, share in SHARES.items():
        assert counts[problem] / 2000 == pytest.approx(share, abs=0.03)
    seeds = [next(s for s in range(100) if problem_of(s) == name) for name in SHARES]
    options = {"grid": 10, "frames": 2, "frame_interval": 0.1, "device": CPU}
    mixed = ObstacleMixture().solve(seeds, **options)
    for place, problem in enumerate((Cavity(), Tube(), Cylinder())):
        alone = problem.solve([seeds[place]], **options)[0]
        torch.testing.assert_close(mixed[place], alone)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_trajectory_depends_on_its_seed_alone(problem: LaminarFlow) -> None:
    options = {"grid": 12, "frames": 3, "frame_interval": 0.5, "device": CPU}
    alone, among = problem.solve([7], **options), problem.solve([5, 7, 9], **options)
    torch.testing.assert_close(among[1], alone[0], rtol=1e-4, atol=1e-5)
    assert relative(among[0], alone[0]) > 0.1
