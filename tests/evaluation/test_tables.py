"""Scores as tables for a terminal, a spreadsheet and a paper."""

import csv
import io
from math import nan
from pathlib import Path
from typing import Literal

from dpot_scale.evaluation.scores import METRICS, DatasetDetails, DatasetScore, Metric, Scores
from dpot_scale.evaluation.tables import COLUMNS, csv_text, headline, latex_table, metric_table


def metric(rollout: float) -> Metric:
    one = {
        "rollout": rollout,
        "one_step": rollout / 2,
        "windows": {"6:7": rollout},
        "lead_times": (rollout / 4, rollout),
    }
    return Metric(**one, fields={"u": one, "v": one})  # type: ignore[arg-type]


def scores(
    rollout: float,
    scored_on: Literal["stored", "published"] = "stored",
    zeros: int = 0,
    *,
    seen_elsewhere: bool = False,
) -> Scores:
    one = DatasetScore(
        rel_l2=rollout,
        one_step_rel_l2=0.1,
        persistence_rel_l2=0.5,
        persistence_one_step_rel_l2=0.2,
        zero_targets=zeros,
    )
    details = DatasetDetails(
        grid=(96, 160),
        seen_on=(64, 64) if seen_elsewhere else (96, 160),
        trajectories=7,
        constant_targets=zeros,
        model={name: metric(rollout) for name in METRICS},
        persistence={name: metric(0.5) for name in METRICS},
    )
    return Scores(
        weights=Path("model.safetensors"),
        config="quickstart",
        evaluation={"swe_pdb": one},
        parameters=10_000_000,
        scored_on=scored_on,
        details={"swe_pdb": details},
    )


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_one_model_beside_persistence() -> None:
    lines = cells(metric_table({"mine": scores(0.25, zeros=3)}, "vrmse"))
    assert lines[0] == ["held-out", "vrmse", "rollout", "persistence", "one", "step", "persistence"]
    assert lines[1] == ["swe_pdb", "0.2500", "0.5000", "0.1250", "0.2500"]
    assert " ".join(lines[2]).startswith("left out of swe_pdb: 3 frames of a field that are zero")
    assert " ".join(lines[3]).startswith("left out of swe_pdb, too: 3 frames of a field")
    expected = "compared as stored, 7 trajectories of a dataset; 96 x 160 points: swe_pdb"
    assert " ".join(lines[4]) == expected


def test_what_a_training_reports_is_said_where_it_is_of_another_grid() -> None:
    found = scores(0.25, seen_elsewhere=True)
    last = metric_table({"mine": found}, "rel_l2").splitlines()[-1]
    assert last == (
        "rollouts as a training compares them, on the grid of the model: swe_pdb 0.2500"
    )
    both = metric_table({"mine": found, "other": scores(0.1)}, "rel_l2").splitlines()
    assert [line for line in both if "as a training" in line] == [
        last.replace("rollouts", "rollouts of mine")
    ]
    assert "as a training" not in metric_table({"mine": found}, "nrmse")


def test_several_models_in_one_table_with_persistence() -> None:
    lines = cells(metric_table({"mine": scores(0.25), "other": scores(2e-5)}, "nrmse"))
    assert lines[:4] == [
        ["held-out", "nrmse", "rollout", "one", "step", "6:7"],
        ["swe_pdb", "mine", "0.2500", "0.1250", "0.2500"],
        ["other", "2.000e-05", "1.000e-05", "2.000e-05"],
        ["persistence", "0.5000", "0.2500", "0.5000"],
    ]


def test_a_diverged_model_and_a_large_error_are_numbers_too() -> None:
    lines = cells(metric_table({"mine": scores(nan), "other": scores(1e30)}, "max_error"))
    assert lines[1][2:] == ["nan", "nan", "nan"]
    assert lines[2][1:] == ["1.000e+30", "5.000e+29", "1.000e+30"]


def test_the_published_row_of_the_nearest_size_is_marked() -> None:
    text = metric_table({"mine": scores(0.25, "published")}, "rel_l2")
    lines = cells(text)
    assert lines[3] == ["DPOT-Ti,", "published", "0.0056"]
    assert "compared by the published protocol, 7 of 60 published trajectories" in text


def test_every_number_is_in_the_csv_file() -> None:
    text = csv_text({"mine": scores(0.25), "other": scores(0.3)})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * 2 * len(METRICS) * 3 * 5
    wanted = {"source": "other", "forecast": "model", "metric": "vrmse", "field": "v"}
    found = {row["of"]: row["value"] for row in rows if wanted.items() <= row.items()}
    assert found == {
        "rollout": "0.3", "one_step": "0.15", "6:7": "0.3", "lead_1": "0.075", "lead_2": "0.3",
    }  # fmt: skip
    assert rows[0]["grid"] == "96x160"


def test_a_latex_table_has_the_best_in_bold() -> None:
    text = latex_table({"mine_1": scores(0.25), "other": scores(0.3)}, "rel_l2")
    assert r"dataset & mine\_1 & other & persistence \\" in text
    assert r"swe\_pdb & \textbf{0.2500} & 0.3000 & 0.5000 \\" in text
    assert text.count("{") == text.count("}")


def test_the_scores_that_mlflow_gets() -> None:
    found = headline(scores(0.25))
    assert found["evaluate/swe_pdb/rel_l2"] == 0.25
    assert found["evaluate/swe_pdb/vrmse_one_step"] == 0.125
    assert found["evaluate/swe_pdb/vrmse_6-7"] == 0.25
    assert len(found) == 3 * len(METRICS)
