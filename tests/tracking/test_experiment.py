"""What our experiment shows when it is opened."""

import json
from pathlib import Path

from dpot_scale.tracking.experiment import DESCRIPTION, VIEW_TAG, describe
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
