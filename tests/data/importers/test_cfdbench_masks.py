"""Where the obstacles of CFDBench lie."""

import numpy as np
import pytest

from dpot_scale.data.importers.cfdbench_masks import fluid_mask

CYLINDER_CASE = {
    "vel_in": 1.0, "density": 10.0, "viscosity": 0.001, "radius": 0.01,
    "x_min": -0.06, "x_max": 0.16, "y_min": -0.06, "y_max": 0.06,
}  # fmt: skip
DAM_CASE = {
    "case_no": 0.0, "velocity": 0.05, "density": 100.0, "viscosity": 0.1, "barrier_height": 0.1,
    "barrier_width": 0.05, "height": 0.4, "width": 1.5, "dx": 0.125, "dy": 0.1,
}  # fmt: skip


def test_the_cylinder_is_solid_and_at_the_origin() -> None:
    mask_yx = fluid_mask("cylinder", CYLINDER_CASE, (64, 64))
    dx, dy = 0.22 / 64, 0.12 / 64
    solid = np.argwhere(mask_yx == 0)
    centre_y, centre_x = (solid.mean(axis=0) + 0.5) * (dy, dx) + (-0.06, -0.06)
    assert abs(centre_x) < dx / 2
    assert abs(centre_y) < dy / 2
    assert len(solid) * dx * dy == pytest.approx(np.pi * 0.01**2, rel=0.1)


def test_the_dam_stands_on_the_floor_half_a_metre_from_the_inlet() -> None:
    mask_yx = fluid_mask("dam", DAM_CASE, (64, 60))
    rows, columns = np.nonzero(mask_yx == 0)
    assert (rows.min(), rows.max()) == (0, 15), "0.1 of 0.4 metres"
    assert (columns.min(), columns.max()) == (20, 21), "0.5 to 0.55 of 1.5 metres"
    assert len(rows) == 2 * 16


@pytest.mark.parametrize("cells", range(4, 40, 5))
@pytest.mark.parametrize(("problem", "case"), [("cylinder", CYLINDER_CASE), ("dam", DAM_CASE)])
def test_no_obstacle_is_lost_between_the_centres_of_cells(
    problem: str, case: dict[str, float], cells: int
) -> None:
    thin = case | {"radius": 1e-4, "barrier_width": 1e-3, "barrier_height": 1e-3}
    solid = (fluid_mask(problem, thin, (cells, cells)) == 0).sum()
    assert 1 <= solid <= 4, "where it lies just between them, on each side"


@pytest.mark.parametrize("problem", ["cavity", "tube"])
def test_without_an_obstacle_all_is_fluid(problem: str) -> None:
    assert (fluid_mask(problem, {}, (4, 5)) == np.ones((4, 5))).all()
