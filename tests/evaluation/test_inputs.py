"""What is settled before an evaluation loads torch."""

from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.errors import ConfigError
from dpot_scale.evaluation.inputs import name_of_scores, require_data


def test_missing_datasets_are_named_with_what_may_mend_it(tmp_path: Path) -> None:
    data = load_run("quickstart", [f"data.root={tmp_path}"]).data
    with pytest.raises(ConfigError) as refused:
        require_data(data, "run/config.yaml")
    sentence = str(refused.value)
    assert all(repr(name) in sentence for name in data.weights)
    assert f"are missing under {tmp_path}, the data.root of run/config.yaml; say with " in sentence
    assert sentence.endswith("(what DIR lacks of suite quickstart is made there)")


def test_scores_are_named_after_the_run_or_the_file(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    checkpoint = run / "checkpoints" / "step_5"
    checkpoint.mkdir(parents=True)
    config = run / "config.yaml"
    assert name_of_scores(run, config) == "mine"
    assert name_of_scores(run / "model.safetensors", config) == "mine"
    assert name_of_scores(checkpoint, config) == "mine_step_5"
    assert name_of_scores(tmp_path / "released_ti.pth", None) == "released_ti"
