"""Laminar stand-ins for CFDBench: a driven cavity, a tube, and a cylinder in a channel.

Everything starts from rest, with the lid or the inlet at full speed at once. Lengths are in cavity
widths, tube heights or mean cylinder diameters, and times in such a length over the speed of the
lid or inlet; stored velocities are multiplied by a speed that each trajectory draws. A trajectory
is a segment of a longer flow: its first frame is at a time that it draws.

Unlike the published data there is one fluid, no turbulence, and the outer shape does not vary.

Legend: N trajectories, T frames, x y cells.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dpot_scale.data.generation.solvers.incompressible import Vessel, advance

# Of the published cases, how many segments of 20 frames are of each problem.
SHARES = {"cavity": 0.13, "tube": 0.15, "cylinder": 0.72}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one trajectory draws."""

    reynolds: float
    speed: float
    start: float
    diameter: float = 0.0  # of the cylinder
    height: float = 0.0  # of its centre above the middle


@dataclass(frozen=True, kw_only=True)
class LaminarFlow:
    """Bounds of what each trajectory draws; Reynolds numbers and speeds by their logarithm."""

    smallest_reynolds: float = 50.0
    largest_reynolds: float = 500.0
    smallest_speed: float = 0.1
    largest_speed: float = 5.0
    latest_start: float = 10.0

    equation: ClassVar[str]
    channels: ClassVar[tuple[str, ...]] = ("u", "v", "mask")
    boundary: ClassVar[str] = "walls below and above, inlet on the left, outlet on the right"
    domain_length: ClassVar[tuple[float, ...]]
    staggering: ClassVar[str] = ""
    is_open: ClassVar[bool] = True
    lid_speed: ClassVar[float] = 0.0

    def solve(
        self,
        seeds: Sequence[int],
        *,
        grid: int,
        frames: int,
        frame_interval: float,
        device: torch.device,
    ) -> Tensor:
        """Return u, v and the mask (N, T, 3, x, y): 1 in the fluid, 0 in an obstacle."""
        cases = [self.draw(seed) for seed in seeds]
        vessel = self.vessel(cases, grid, device)
        velocity = vessel.at_rest()
        duration_N = torch.tensor([case.start for case in cases], device=device)
        speed_N = torch.tensor([case.speed for case in cases], device=device)
        mask_N1xy = (~vessel.solid_Nxy).float()[:, None]
        stored = []
        for _ in range(frames):
            velocity = advance(velocity, vessel, duration_N)
            duration_N = torch.full_like(duration_N, frame_interval)
            flow_N2xy = velocity.at_centres() * mask_N1xy * speed_N[:, None, None, None]
            stored.append(torch.cat([flow_N2xy, mask_N1xy], dim=1))
        return torch.stack(stored, dim=1)

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return the problem of a trajectory and its case."""
        return {"problem": self.equation.encode(), **asdict(self.draw(seed))}

    def draw(self, seed: int) -> Case:
        """Draw the case of a trajectory."""
        random = np.random.default_rng(seed)
        bounds = np.log(
            [
                (self.smallest_reynolds, self.largest_reynolds),
                (self.smallest_speed, self.largest_speed),
            ]
        )
        reynolds, speed = np.exp(random.uniform(bounds[:, 0], bounds[:, 1]))
        start = random.uniform(0, self.latest_start)
        return Case(reynolds=float(reynolds), speed=float(speed), start=float(start))

    def vessel(self, cases: Sequence[Case], grid: int, device: torch.device) -> Vessel:
        """Return what the trajectories flow in."""
        lengths = [case.diameter or 1.0 for case in cases]
        viscosity = [length / case.reynolds for length, case in zip(lengths, cases, strict=True)]
        return Vessel(
            size=(self.domain_length[0], self.domain_length[1]),
            viscosity_N=torch.tensor(viscosity, device=device),
            solid_Nxy=torch.stack([self.solid(case, grid) for case in cases]).to(device),
            is_open=self.is_open,
            lid_speed=self.lid_speed,
        )

    def solid(self, case: Case, grid: int) -> Tensor:
        """Return (x, y), true in the cells of an obstacle."""
        del case
        return torch.zeros(grid, grid, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Cavity(LaminarFlow):
    """A square box whose upper wall moves to the right."""

    smallest_reynolds: float = 100.0
    largest_reynolds: float = 1000.0
    smallest_speed: float = 1.0
    largest_speed: float = 50.0

    equation: ClassVar[str] = "cavity"
    boundary: ClassVar[str] = "walls, the upper one moves"
    domain_length: ClassVar[tuple[float, ...]] = (1.0, 1.0)
    is_open: ClassVar[bool] = False
    lid_speed: ClassVar[float] = 1.0


@dataclass(frozen=True, kw_only=True)
class Tube(LaminarFlow):
    """A straight channel, in which the flow develops from a uniform inlet."""

    equation: ClassVar[str] = "tube"
    domain_length: ClassVar[tuple[float, ...]] = (10.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Cylinder(LaminarFlow):
    """A cylinder in a channel, near the middle; behind it vortices leave in turn."""

    largest_reynolds: float = 300.0
    latest_start: float = 40.0  # vortices need about 30
    smallest_diameter: float = 0.8
    largest_diameter: float = 1.4
    largest_height: float = 0.3

    equation: ClassVar[str] = "cylinder"
    domain_length: ClassVar[tuple[float, ...]] = (11.0, 6.0)
    distance: ClassVar[float] = 3.0  # of the cylinder from the inlet

    def draw(self, seed: int) -> Case:
        """Draw the case of a trajectory."""
        drawn = super().draw(seed)
        random = np.random.default_rng([seed, 1])
        return Case(
            reynolds=drawn.reynolds,
            speed=drawn.speed,
            start=drawn.start,
            diameter=float(random.uniform(self.smallest_diameter, self.largest_diameter)),
            height=float(random.uniform(-self.largest_height, self.largest_height)),
        )

    def solid(self, case: Case, grid: int) -> Tensor:
        """Return (x, y), true in the cells whose centre is in the cylinder."""
        centres = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
        length, height = self.domain_length
        x = centres * length - self.distance
        y = (centres - 0.5) * height - case.height
        return x[:, None] ** 2 + y**2 <= (case.diameter / 2) ** 2


PROBLEMS: tuple[LaminarFlow, ...] = (Cavity(), Tube(), Cylinder())


@dataclass(frozen=True, kw_only=True)
class ObstacleMixture:
    """Cavities, tubes and cylinders in the shares of the published dataset."""

    equation: ClassVar[str] = "obstacle_mixture"
    channels: ClassVar[tuple[str, ...]] = LaminarFlow.channels
    boundary: ClassVar[str] = "walls, inlet and outlet of each problem"
    domain_length: ClassVar[tuple[float, ...]] = (1.0, 1.0)  # lengths differ by problem
    staggering: ClassVar[str] = ""

    def solve(
        self,
        seeds: Sequence[int],
        *,
        grid: int,
        frames: int,
        frame_interval: float,
        device: torch.device,
    ) -> Tensor:
        """Return u, v and the mask (N, T, 3, x, y), each problem solved by itself."""
        chosen = [problem_of(seed) for seed in seeds]
        solved = torch.empty(len(seeds), frames, 3, grid, grid, device=device)
        for problem in PROBLEMS:
            places = [
                place for place, equation in enumerate(chosen) if equation == problem.equation
            ]
            if places:
                solved[places] = problem.solve(
                    [seeds[i] for i in places],
                    grid=grid,
                    frames=frames,
                    frame_interval=frame_interval,
                    device=device,
                )
        return solved

    def drawn(self, seed: int) -> dict[str, float | bytes]:
        """Return the problem of a trajectory and its case."""
        chosen = problem_of(seed)
        return next(p.drawn(seed) for p in PROBLEMS if p.equation == chosen)


def problem_of(seed: int) -> str:
    """Draw the problem of a trajectory."""
    random = np.random.default_rng([seed, 2])
    return str(random.choice(list(SHARES), p=list(SHARES.values())))
