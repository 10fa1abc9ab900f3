"""Datasets of a config are checked against the model before anything is spent."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.data.datasets import allowed_files, open_datasets, require_training
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


FEW = """
import resource, sys
from pathlib import Path
from dpot_scale.config.load import load_run
from dpot_scale.data.datasets import open_datasets

most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
places = [f"data.root={sys.argv[2]}", "data.suite=null", "data.weights={a: 1, b: 1}"]
config = load_run(sys.argv[1], places)
stores = open_datasets(config.data, config.model, progress=print)
for store in stores.values():
    for number in range(store.num_trajectories("train")):
        store.read("train", number, 0, 1)
"""


def test_datasets_of_many_files_are_read_where_few_may_be_open(
    tiny_yaml: Path, tmp_path: Path, make_store
) -> None:
    """As far as the system allows it: 80 files are open in the end."""
    for name in "ab":
        make_store(name, train=40, shard_bytes=1)
    command = [sys.executable, "-c", FEW, str(tiny_yaml), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [
        (1024, 10**9, 65536),  # a child that closes all that it may have would take minutes
        (1024, resource.RLIM_INFINITY, 65536),
        (1024, 4000, 4000),
        (100_000, 10**9, 100_000),  # as somebody wants it
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_no_more_open_files_are_asked_for_than_data_need(
    soft: int, hard: int, then: int, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a system that allows more than this one may."""
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, asked: limits.append(asked))
    foretold = allowed_files()
    opened(tiny_yaml)
    assert limits[-1] == (then, hard)
    assert foretold == (sys.maxsize if then == resource.RLIM_INFINITY else then)


def test_there_must_be_something_to_train_on(make_store) -> None:
    sentence = "dataset b is for evaluation alone, it has no training trajectories: leave it out"
    require_training({"a": make_store("a")})
    with pytest.raises(DataError, match=sentence):
        require_training({"a": make_store("c"), "b": make_store("b", train=0)})
