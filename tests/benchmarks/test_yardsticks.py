"""The parts of the outside yardsticks that need no package of others: error, files, table."""

import importlib
import math
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from dpot_scale.config.load import load_run
from dpot_scale.data.store.dataset import open_store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(params=["apebench", "neuraloperator_darcy"])
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module(request.param)


@pytest.fixture
def yardstick(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("yardstick")


@pytest.fixture
def apebench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("apebench")


@pytest.fixture
def darcy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("neuraloperator_darcy")


def test_the_error_is_a_mean_over_trajectories_of_a_sum_over_fields(yardstick: ModuleType) -> None:
    rng = np.random.default_rng(0)
    truth, forecast = rng.normal(size=(2, 3, 5, 2, 8, 8)).astype(np.float32)
    expected = [
        np.mean(
            [
                sum(
                    math.sqrt(sum((p - t) ** 2 for p, t in zip(ps.flat, ts.flat, strict=True)))
                    / math.sqrt(sum(t**2 for t in ts.flat))
                    for ps, ts in zip(forecast[n, lead], truth[n, lead], strict=True)
                )
                for n in range(3)
            ]
        )
        for lead in range(5)
    ]
    assert yardstick.nrmse(forecast, truth) == pytest.approx(expected, rel=1e-5)


def test_a_rollout_that_diverges_has_no_finite_error(yardstick: ModuleType) -> None:
    truth = np.ones((1, 2, 1, 4, 4), dtype=np.float32)
    forecast = np.concatenate([truth[:, :1], truth[:, 1:] * np.inf], axis=1)
    errors = yardstick.nrmse(forecast, truth)
    assert errors[0] == 0
    assert not np.isfinite(errors[1])


def test_a_rollout_is_summed_up_by_the_geometric_mean(yardstick: ModuleType) -> None:
    assert yardstick.geometric_mean([0.1, 0.1, 100.0]) == pytest.approx(1.0)


def test_the_table_has_the_best_network_first(yardstick: ModuleType, tmp_path: Path) -> None:
    kinds = {"UNet;12;2;relu": 0.3, "DPOT": 0.1, "diverged": math.nan}
    for network, error in kinds.items():
        row = yardstick.Row(
            network=network,
            parameters=10,
            steps=5,
            batch=2,
            history=1,
            cpu_seconds=1.5,
            flops=None,
            errors=[error] * 10,
        )
        yardstick.save(tmp_path, row)
    rows = yardstick.saved_rows(tmp_path)
    assert [row.network for row in rows] == ["DPOT", "UNet;12;2;relu", "diverged"]
    header, _, first, *_ = yardstick.lines(rows).splitlines()
    assert header.count("|") == first.count("|")
    assert "| lead 1 | lead 10 |" in header
    assert "0.1000" in first


def test_the_line_that_a_command_returns_is_kept_for_the_table(
    yardstick: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def baseline(out: Path, steps: int) -> object:
        return yardstick.Row(
            network="FNO",
            parameters=10,
            steps=steps,
            batch=2,
            history=1,
            cpu_seconds=1.5,
            flops=None,
            errors=[0.25],
        )

    for name, value in yardstick.ONE_THREAD.items():  # or the script starts again
        monkeypatch.setenv(name, value)
    for arguments in (["baseline", "--steps", "7"], ["table"]):
        commands = yardstick.Commands("A yardstick.")
        commands.add("baseline", baseline, "train").add_argument("--steps", type=int)
        monkeypatch.setattr(sys, "argv", ["yardstick", str(tmp_path), *arguments])
        commands.run()
        assert "| FNO | 10 | 7 x 2 | 1 |" in capsys.readouterr().out


def test_the_files_of_a_scenario_are_imported_as_they_are(
    yardstick: ModuleType, apebench: ModuleType, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    frames = {
        split: rng.normal(size=(n, 6, 2, 8, 8)).astype(np.float32)
        for split, n in (("train", 3), ("test", 2))
    }
    for split, frames_NTCs in frames.items():
        apebench.write_well(tmp_path / "files" / split / "apebench.hdf5", frames_NTCs)
    yardstick.import_files(tmp_path, "apebench")
    store = open_store(tmp_path / "data", "apebench")
    assert store.info.channels == ("u0", "u1")
    assert store.info.domain_length == (1.0, 1.0)
    assert store.info.boundary == "periodic"
    for split, frames_NTCs in frames.items():
        for n, frames_TCs in enumerate(frames_NTCs):
            out = np.empty_like(frames_TCs)
            store.read(split, n, 0, 6, out=out)
            assert np.array_equal(out, frames_TCs)


def test_the_darcy_files_of_the_package_are_imported(
    yardstick: ModuleType, darcy: ModuleType, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "neuraloperator.whl", "w") as wheel:
        for split, samples in (("train", 4), ("test", 3)):
            fields = {"x": torch.rand(samples, 16, 16) > 0.5, "y": torch.rand(samples, 16, 16)}
            torch.save(fields, tmp_path / "file.pt")
            wheel.write(tmp_path / "file.pt", f"neuralop/datasets/data/darcy_{split}_16.pt")
    darcy.write(tmp_path, tmp_path / "neuraloperator.whl")
    yardstick.import_files(tmp_path, darcy.DATASET)
    store = open_store(tmp_path / "data", darcy.DATASET)
    assert (store.num_trajectories("train"), store.num_trajectories("test")) == (4, 3)
    out = np.empty((2, 1, 16, 16), dtype=np.float32)
    store.read("test", 2, 0, 2, out=out)
    assert np.array_equal(out[1:], np.load(tmp_path / "truth.npy")[2])
    assert np.array_equal(np.load(tmp_path / "truth.npy")[2, 0, 0], fields["y"][2].numpy())


def test_what_is_laid_over_the_quickstart_is_a_valid_config(
    yardstick: ModuleType, script: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "ours.yaml"
    yardstick.write_config(file, script.OURS, tmp_path, "DPOT", 1600)
    config = load_run(str(file))
    assert config.directory == tmp_path / "runs" / "DPOT"
    assert config.data.root == tmp_path / "data"
    assert config.windows == 1600
    assert list(config.data.weights) == [script.DATASET]
    assert config.data.suite is None
