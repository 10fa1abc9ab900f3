"""Weights of earlier versions find what they were trained on beside the run they lie in."""

import json
import shutil
from pathlib import Path

import pytest

import dpot_scale as ds
from dpot_scale.config.load import dump, load_run
from dpot_scale.config.places import RUN_CONFIG
from dpot_scale.data.store.dataset import open_store
from dpot_scale.errors import DataError
from dpot_scale.serving.source import read_with_data

FORMATS = Path(__file__).parents[1] / "golden" / "formats"


@pytest.fixture(params=["runs", "second"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The finished run of an earlier version, whose data are where its config says."""
    run = tmp_path / "finished"
    shutil.copytree(FORMATS / request.param / "finished", run)
    config = load_run(str(run / RUN_CONFIG), [f"data.root={tmp_path / 'data'}"])
    (run / RUN_CONFIG).write_text(dump(config))
    shutil.copytree(FORMATS / "store", tmp_path / "data")
    return run


def normalized(run: Path) -> None:
    config = load_run(str(run / RUN_CONFIG), ["data.normalize=dataset"])
    (run / RUN_CONFIG).write_text(dump(config))


def test_channels_come_from_the_datasets(run: Path) -> None:
    for source in (run, run / "model.safetensors"):
        data = read_with_data(source).data
        assert data is not None
        assert data.datasets["dr_pdb_generated"].names == ("u", "v")
        assert not data.datasets["dr_pdb_generated"].is_scaled
    assert ds.load(run, dataset="dr_pdb_generated").channels == ("u", "v")


def test_statistics_come_from_the_datasets(run: Path, tmp_path: Path) -> None:
    normalized(run)
    data = read_with_data(run).data
    assert data is not None
    store = open_store(tmp_path / "data", "dr_pdb_generated")
    assert data.datasets["dr_pdb_generated"].mean == store.statistics.mean


def test_without_its_datasets_nothing_is_known(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data" / "dr_pdb_generated")
    assert read_with_data(run).data is None
    normalized(run)
    with pytest.raises(DataError, match=r"needs the statistics .* back to .*data, the data\.root"):
        read_with_data(run)


def test_other_data_of_the_same_name_are_not_taken(run: Path, tmp_path: Path) -> None:
    before = {"format": 2, "contents": {"dataset dr_pdb_generated": "0123456789ab"}}
    (run / "inputs.json").write_text(json.dumps(before))
    assert read_with_data(run).data is None


def test_weights_that_lie_nowhere_are_taken_as_they_are(run: Path, tmp_path: Path) -> None:
    alone = shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    assert read_with_data(Path(alone)).data is None
