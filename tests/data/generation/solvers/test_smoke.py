"""Buoyant smoke: the published data, balance, bounds, and no divergence."""

from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpot_scale.data.generation.solvers.smoke import Smoke, State, at_rest, carried, initial_smoke

UPSTREAM = Path(__file__).parents[3] / "upstream"
CPU = torch.device("cpu")


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def published() -> tuple[Tensor, Tensor]:
    """Frames (T, 3, x, y), 1.5 apart, and the buoyancy."""
    with h5py.File(UPSTREAM / "pdearena_smoke.h5") as file:
        group = file["train"]
        frames = [torch.from_numpy(group[name][0]) for name in ("u", "vx", "vy")]
        return torch.stack(frames, dim=1), torch.from_numpy(group["buo_y"][()])


def state_of(frame: Tensor) -> State:
    """The velocity at the last walls is not stored: it is zero."""
    smoke, vx, vy = frame[None].unbind(1)
    return State(smoke, functional.pad(vx, (0, 0, 0, 1)), functional.pad(vy, (0, 1)))


@pytest.mark.parametrize("frame", [0, 3, 6])
def test_one_step_of_the_published_data(frame: int) -> None:
    """Measured 1e-7 for smoke; for velocities 4e-6, the tolerance of the published solver."""
    frames, buoyancy = published()
    step = Smoke().advance(state_of(frames[frame]), buoyancy, 1.5).channels()[0]
    assert relative(step[0], frames[frame + 1, 0]) < 5e-7
    assert relative(step[1:], frames[frame + 1, 1:]) < 2e-5
    assert relative(frames[frame], frames[frame + 1]) > 0.1, "nor does the smoke stand still"


def test_the_first_frames_have_the_size_of_the_published_ones() -> None:
    """Of many trajectories; published are 0.95, 0.64 and 0.86 in one of them."""
    frames, buoyancy = published()
    equation = Smoke(smallest_buoyancy=float(buoyancy), largest_buoyancy=float(buoyancy))
    ours = equation.solve(range(16), grid=32, frames=1, frame_interval=1.5, device=CPU)
    for channel in range(3):
        size = frames[0, channel].square().mean().sqrt()
        assert float(ours[:, 0, channel].square().mean().sqrt() / size) == pytest.approx(1, abs=0.1)


def test_no_divergence_and_nothing_through_the_walls() -> None:
    state = at_rest(torch.stack([initial_smoke(seed, 24) for seed in (0, 1)]))
    state = Smoke().advance(state, torch.tensor([0.5, 0.3]).double(), 12.0)
    divergence = state.vx_NXy.diff(dim=1) + state.vy_NxY.diff(dim=2)
    assert float(state.vx_NXy.abs().max()) > 0.5
    assert float(divergence.abs().max()) < 1e-12
    for wall in (state.vx_NXy[:, 0], state.vx_NXy[:, -1], state.vy_NxY[..., 0]):
        assert torch.equal(wall, torch.zeros_like(wall))


def test_smoke_stays_within_its_first_bounds() -> None:
    start = at_rest(initial_smoke(2, 24)[None])
    after = Smoke().advance(start, torch.tensor([0.5]).double(), 30.0)
    assert float(after.smoke_Nxy.max()) <= float(start.smoke_Nxy.max())
    assert float(after.smoke_Nxy.min()) >= float(start.smoke_Nxy.min())
    assert relative(after.smoke_Nxy, start.smoke_Nxy) > 0.3


def test_layers_of_smoke_rest_and_columns_rise() -> None:
    """Weight that depends on the height alone is carried by the pressure.

    Without viscosity, which the published scheme lets act on it before the pressure does.
    """
    height = torch.linspace(0, 1, 16, dtype=torch.float64)
    layers = at_rest(height.square().expand(1, 16, 16))
    b = torch.tensor([0.5]).double()
    assert float(Smoke(viscosity=0.0).advance(layers, b, 6.0).vy_NxY.abs().max()) < 1e-12
    bump = torch.exp(-((height - 0.5) ** 2) / 0.02)
    column = Smoke().advance(at_rest(bump[:, None].expand(1, 16, 16)), b, 3.0)
    assert float(column.vy_NxY[0, 7:9].min()) > -1e-12
    assert float(column.vy_NxY[0, 7:9, 8].min()) > 0.1
    assert float(column.vy_NxY[0, 1, 8]) < -0.01, "what rises in the middle sinks at the sides"


def test_left_and_right_are_mirror_images() -> None:
    smoke = initial_smoke(5, 20)[None]
    b = torch.tensor([0.4]).double()
    ours = Smoke().advance(at_rest(smoke), b, 9.0)
    mirrored = Smoke().advance(at_rest(smoke.flip(1)), b, 9.0)
    torch.testing.assert_close(mirrored.smoke_Nxy.flip(1), ours.smoke_Nxy, rtol=0, atol=1e-10)
    torch.testing.assert_close(mirrored.vx_NXy.flip(1), -ours.vx_NXy, rtol=0, atol=1e-10)
    torch.testing.assert_close(mirrored.vy_NxY.flip(1), ours.vy_NxY, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("outside", "filled"), [("zeros", 0.0), ("border", 1.0)])
def test_a_field_is_carried_by_the_flow(outside: str, filled: float) -> None:
    field = torch.arange(1.0, 7.0).double()[:, None].expand(1, 6, 5)
    ones = torch.ones(1, 6, 5).double()
    found = carried(field, 1.5 * ones, 0 * ones, outside)[0, :, 2]
    # What is half a point outside is halfway to what is outside.
    first = 0.5 if outside == "zeros" else 1.0
    expected = torch.tensor([filled, first, 1.5, 2.5, 3.5, 4.5]).double()
    torch.testing.assert_close(found, expected)
    along_y = carried(field.mT.contiguous(), 0 * ones.mT, 1.5 * ones.mT, outside)[0, 2]
    torch.testing.assert_close(along_y, expected)


def test_the_initial_smoke_is_the_stated_law() -> None:
    fields = torch.stack([initial_smoke(seed, 32) for seed in range(100)])
    assert float(fields.min()) >= 0
    torch.testing.assert_close(fields.square().mean((1, 2)), torch.ones(100).double())
    # Almost all of it is the four waves of wave length 32.
    assert float(fields.std()) > 0.5
    coarse, fine = initial_smoke(3, 8), initial_smoke(3, 24)[1::3, 1::3]
    assert relative(fine, coarse) < 0.01, "a seed draws the same smoke on every grid"


def test_each_trajectory_has_a_buoyancy_within_the_bounds() -> None:
    equation = Smoke(smallest_buoyancy=0.2, largest_buoyancy=0.5)
    drawn = [equation.buoyancy(seed) for seed in range(200)]
    assert 0.2 <= min(drawn) < 0.21
    assert 0.49 < max(drawn) <= 0.5


def test_a_trajectory_depends_on_its_seed_alone() -> None:
    equation = Smoke(smallest_buoyancy=0.2)
    options = {"grid": 16, "frames": 3, "frame_interval": 1.5, "device": CPU}
    alone = equation.solve([7], **options)
    among = equation.solve([5, 7, 9], **options)
    torch.testing.assert_close(among[1], alone[0], rtol=1e-5, atol=1e-5)
    assert relative(among[0], alone[0]) > 0.3
