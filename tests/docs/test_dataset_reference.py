"""docs/datasets.md is what its script writes today, and tells of every folder and file."""

import runpy
from pathlib import Path

from dpot_scale.data.published import PDEBENCH, THE_WELL

SCRIPT = Path(__file__).parents[2] / "docs" / "dataset_reference.py"
REFERENCE = runpy.run_path(str(SCRIPT))


def test_the_page_is_what_the_catalogue_says() -> None:
    page = REFERENCE["PAGE"].read_text(encoding="utf-8")
    assert page == REFERENCE["page"](), "run `python docs/dataset_reference.py`"


def test_a_row_says_grid_frames_trajectories_fields_and_size() -> None:
    page = REFERENCE["page"]()
    assert (
        "| `viscoelastic_instability` | 512² | 20 or 60 | 259 | pressure, c_zz, velocity_x, "
        "velocity_y; with `--tensors`: C_xx, C_xy, C_yx, C_yy | trajectories differ in length"
        in page
    )
    assert "| `2D_rdb_NA_NA.h5` | `swe_pdb` | 128² | 101 | 1,000 | h | pre-training | 6.2 |" in page
    assert "| `1D_diff-sorp_NA_NA.h5` | | | | | data | not imported: one space axis | |" in page


def test_every_folder_and_file_has_a_row() -> None:
    page = REFERENCE["page"]()
    for entry in (*THE_WELL, *PDEBENCH):
        assert page.count(f"\n| `{entry.files}` |") == 1
