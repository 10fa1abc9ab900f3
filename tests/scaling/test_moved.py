"""A folder of a sweep that was copied is worked on where it lies."""

import shutil
from pathlib import Path

from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import SWEEP_CONFIG, TRIALS, resolve_sweep_paths
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.moved import original_of, where_it_lies


def written(folder: Path) -> SweepConfig:
    sweep = resolve_sweep_paths(load_sweep("quickstart", ["run.output=runs"]), folder)
    (sweep.directory / TRIALS).mkdir(parents=True)
    (sweep.directory / SWEEP_CONFIG).write_text(dump(sweep))
    return sweep


def test_a_copy_is_where_it_lies_and_knows_its_original(tmp_path: Path) -> None:
    sweep = written(tmp_path)
    assert original_of(sweep) is None
    copy = tmp_path / "elsewhere" / "mine"
    shutil.copytree(sweep.directory, copy)
    config = str(copy / SWEEP_CONFIG)
    found = where_it_lies(load_sweep(config), config)
    assert found.directory == copy
    assert original_of(found) == sweep.directory
    assert found.design == sweep.design


def test_what_was_moved_is_no_copy(tmp_path: Path) -> None:
    sweep = written(tmp_path)
    moved = tmp_path / "moved"
    sweep.directory.rename(moved)
    config = str(moved / SWEEP_CONFIG)
    assert original_of(where_it_lies(load_sweep(config), config)) is None


def test_other_configs_say_where_their_sweep_is(tmp_path: Path) -> None:
    sweep = written(tmp_path)
    assert where_it_lies(sweep, "quickstart") is sweep
    other = tmp_path / SWEEP_CONFIG  # of no sweep that was run
    other.write_text(dump(sweep))
    assert where_it_lies(sweep, str(other)) is sweep
    assert original_of(sweep.model_copy(update={"name": "unknown"})) is None
