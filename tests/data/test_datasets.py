"""Datasets of a config are checked against the model before anything is spent."""

from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.data.datasets import open_datasets, require_training
from dpot_scale.errors import ConfigError, DataError


def opened(tiny_yaml: Path, *overrides: str) -> list[str]:
    config = load_run(str(tiny_yaml), overrides)
    return list(open_datasets(config.data, config.model, progress=lambda _: None))


def test_a_suite_is_generated_and_only_the_mixture_is_opened(
    tiny_yaml: Path, tmp_path: Path
) -> None:
    weights = "data.weights={swe_coarse: 1, dr_pdb_generated: 2}"
    names = opened(tiny_yaml, weights, f"data.root={tmp_path}")
    assert names == ["swe_coarse", "dr_pdb_generated"]
    assert (tmp_path / "swe_pdb_generated" / "index.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["model.channels=1"], ConfigError, "dr_pdb_generated has 2 channels; model.channels=1"),
        (["model.space_dims=3"], ConfigError, "has 2 space axes; the model has model.space_dims=3"),
        (["data.weights={absent: 1}"], DataError, "dataset 'absent' is missing under"),
        (["data.suite=absent"], ConfigError, "no suite preset is called 'absent'"),
    ],
)
def test_mistakes(
    overrides: list[str], error: type[Exception], message: str, tiny_yaml: Path
) -> None:
    with pytest.raises(error, match=message):
        opened(tiny_yaml, *overrides)


def test_there_must_be_something_to_train_on(make_store) -> None:
    sentence = "dataset b is for evaluation alone, it has no training trajectories: leave it out"
    require_training({"a": make_store("a")})
    with pytest.raises(DataError, match=sentence):
        require_training({"a": make_store("c"), "b": make_store("b", train=0)})
