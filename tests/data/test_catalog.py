"""The catalogue of the twelve datasets."""

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.data.catalog import CATALOG


def test_the_datasets_are_in_the_order_of_the_paper() -> None:
    assert len(CATALOG) == 12
    assert next(iter(CATALOG)) == "ns2d_fno_1e-5"
    assert list(CATALOG)[-1] == "cfdbench"


def test_the_published_recipe_mixes_the_whole_catalogue() -> None:
    assert list(load_run("paper_ti").data.weights) == list(CATALOG)


def test_the_history_and_the_forecast_fit_in_the_frames() -> None:
    for name, entry in CATALOG.items():
        assert 10 + entry.predicted_frames <= entry.frames, name


@pytest.mark.parametrize(
    ("name", "stored", "test"),
    [
        ("ns2d_fno_1e-5", 1200, 200),
        ("ns2d_fno_1e-4", 10000, 200),
        ("ns2d_fno_1e-3", 5000, 200),
        ("swe_pdb", 1000, 100),
        ("dr_pdb", 1000, 100),
        ("ns2d_pdb_M1_eta1e-1_zeta1e-1", 10000, 1000),
    ],
)
def test_the_last_part_of_a_published_file_is_for_the_test(
    name: str, stored: int, test: int
) -> None:
    assert round(CATALOG[name].test_share * stored) == test
