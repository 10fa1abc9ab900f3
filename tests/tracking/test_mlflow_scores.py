"""Scores that are added to a run of MLflow."""

from pathlib import Path

import pytest

from dpot_scale.tracking.mlflow_scores import log_scores


def test_scores_for_a_database_that_is_gone_make_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = tmp_path / "folder" / "mlflow.db"
    assert not log_scores(f"sqlite:///{gone}", "0123", {"a": 1.0}, [])
    (line,) = caplog.messages
    assert line.startswith(
        f"the scores are not in the MLflow run 0123, as there is no database {gone}"
    )
    assert not gone.parent.exists()
