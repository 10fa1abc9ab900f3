"""The first screen of a finished training says how good it is."""

import json
from pathlib import Path

from dpot_scale.tracking.note import note_of

RECORDS = [
    {"step": 0, "time": 1.0, "model/params": 179953},
    {"step": 8, "time": 2.0, "train/loss": 0.5, "data/windows": 4096, "compute/train_flops": 7e9},
    {
        "step": 0,
        "time": 3.0,
        "final/rel_l2": 0.25,
        "final/one_step_rel_l2": 0.0625,
        "final/over_persistence": 0.5,
        "final/swe/rel_l2": 0.25,
        "final/swe/one_step_rel_l2": 0.0625,
        "time/seconds": 11.14,
    },
]


def spool_of(folder: Path, number: int) -> Path:
    spool = folder / "metrics.jsonl"
    spool.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[:number]))
    return spool


def test_a_note_has_the_errors_of_all_and_of_each_dataset(tmp_path: Path) -> None:
    assert note_of(spool_of(tmp_path, 3)).splitlines() == [
        "| held-out error | rel_l2 | over persistence | one step |",
        "|---|--:|--:|--:|",
        "| mean | 0.25 | 0.5 | 0.0625 |",
        "| swe | 0.25 |  | 0.0625 |",
        "",
        "179,953 parameters, 4,096 windows, 7e+09 FLOPs, 11 seconds",
    ]


def test_what_has_no_errors_has_no_note(tmp_path: Path) -> None:
    assert note_of(spool_of(tmp_path, 2)) == ""
