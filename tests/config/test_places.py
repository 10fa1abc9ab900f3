"""Paths of a sweep, before they reach processes with other working directories."""

from pathlib import Path

import pytest

from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import absolute_uri, resolve_sweep_paths, results_home
from dpot_scale.config.sweep import SweepConfig


def test_results_lie_below_home_and_inputs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["run.start.source=model.safetensors"]
    sweep = resolve_sweep_paths(load_sweep("quickstart", overrides), Path("/results"))
    assert sweep.directory == Path("/results/runs/quickstart-sweep")
    assert sweep.run.data.root == Path("/results/data/quickstart")
    assert sweep.run.tracking.mlflow_uri == "sqlite:////results/mlflow.db"
    assert sweep.run.start.source == tmp_path / "model.safetensors"


def test_a_design_reads_what_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    design = (
        "design=[{start: {scratch: null, big: runs/big}}, "
        "{grid: {run.data.root: [a, /b], run.optim.lr: [1e-3]}}, "
        "{ablation: {other: {run.start.source: w.pth, run.seed: 3}}}]"
    )
    sweep = resolve_sweep_paths(load_sweep("quickstart", [design]), Path("/results"))
    start, grid, ablation = sweep.design
    assert start.start == {"scratch": None, "big": tmp_path / "runs" / "big"}
    assert grid.grid == {"run.data.root": ("/results/a", "/b"), "run.optim.lr": ("1e-3",)}
    assert ablation.ablation == {
        "other": {"run.start.source": str(tmp_path / "w.pth"), "run.seed": 3}
    }
    (tmp_path / "sweep.yaml").write_text(dump(sweep))
    assert load_sweep(str(tmp_path / "sweep.yaml")) == sweep


def test_names_of_presets_and_absolute_paths_stay() -> None:
    sweep = load_sweep("quickstart", ["run.output=/elsewhere"])
    placed = resolve_sweep_paths(sweep, Path("/results"))
    assert placed.run.output == Path("/elsewhere")
    assert resolve_sweep_paths(placed, Path("/other")) == placed
    assert SweepConfig.model_validate(placed.model_dump()) == placed


def test_a_server_is_the_same_from_everywhere() -> None:
    assert absolute_uri("http://localhost:5000", Path("/results")) == "http://localhost:5000"


def test_where_results_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPOT_SCALE_HOME", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert results_home() == tmp_path
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert results_home() == Path.home() / "dpot_scale"
    monkeypatch.setenv("DPOT_SCALE_HOME", str(tmp_path / "chosen"))
    assert results_home() == tmp_path / "chosen"
