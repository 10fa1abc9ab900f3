"""Which modes an FNO has."""

import pytest

from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import count_parameters as of_dpot
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.models.fno.config import FNOConfig
from dpot_scale.models.fno.cost import count_flops, count_parameters


def test_by_default_it_is_as_large_as_dpot_ti() -> None:
    expected = of_dpot(DPOTConfig(size="Ti")).total
    assert count_parameters(FNOConfig()).total == pytest.approx(expected, rel=0.1)


def test_a_grid_has_the_modes_below_half_its_points() -> None:
    model = FNOConfig(modes=5)
    assert model.kept_modes((32, 10, 9, 8, 1)) == (5, 5, 5, 4, 1)
    assert FNOConfig(modes=5, grid=(8, 32)).spectrum == (7, 5)


def test_on_another_grid_it_has_no_more_modes_than_it_had() -> None:
    model = FNOConfig(modes=12, grid=16)
    assert model.on((64, 64)).spectrum == model.spectrum == (15, 8)
    assert model.on((8, 8)).spectrum == (7, 4)
    flops = [count_flops(model.on((n, n)), KEEP_ALL).forward for n in (8, 16, 64)]
    assert flops == sorted(flops)
