"""What our experiment shows when it is opened."""

import json
from pathlib import Path

from dpot_scale.tracking.experiment import DESCRIPTION, VIEW_TAG, describe, share_charts
from dpot_scale.tracking.mlflow_client import client


def test_an_experiment_has_a_description_columns_and_charts(tmp_path: Path) -> None:
    mlflow_client = client(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow_client.create_experiment("ours")
    describe(mlflow_client, experiment)
    tags = mlflow_client.get_experiment(experiment).tags
    assert tags["mlflow.note.content"] == DESCRIPTION
    view = json.loads(tags[VIEW_TAG])
    assert view["selectedColumns"][0] == view["orderByKey"] == "metrics.`final/rel_l2`"
    assert {"model/params", "compute/train_flops"} <= {
        card["xaxis"]["key"] for card in view["compareRunCharts"] if card["type"] == "SCATTER"
    }
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {card["metricSectionId"] for card in view["compareRunCharts"]} == sections
    # What somebody wrote stays.
    mlflow_client.set_experiment_tag(experiment, "mlflow.note.content", "mine")
    describe(mlflow_client, experiment)
    assert mlflow_client.get_experiment(experiment).tags["mlflow.note.content"] == "mine"


def test_a_sweep_has_a_view_of_its_own_trials(tmp_path: Path) -> None:
    mlflow_client = client(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow_client.create_experiment("ours")
    sweep = mlflow_client.create_run(experiment).info.run_id
    trial = mlflow_client.create_run(experiment, tags={"mlflow.parentRunId": sweep}).info.run_id
    link = share_charts(mlflow_client, experiment, sweep)
    assert link == (
        f"#/experiments/{experiment}/runs?viewStateShareKey={sweep}&compareRunsMode=CHART"
    )
    tags = mlflow_client.get_experiment(experiment).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{sweep}"])
    assert view["compareRunCharts"]
    assert view["runsHiddenMode"] == "SHOW_ALL"
    (found,) = mlflow_client.search_runs([experiment], view["searchFilter"])
    assert found.info.run_id == trial
