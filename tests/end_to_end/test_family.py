"""A family that the package does not know: a folder, and a line in the registry.

Nothing else names it, yet it trains, stops, resumes, is scored, exported and swept with a DPOT.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dpot_scale
from dpot_scale.config.model import FAMILIES
from dpot_scale.evaluate import main as evaluate
from dpot_scale.runs.result import read_result
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.weights import main as weights

pytestmark = pytest.mark.timeout(400)

HERE = Path(__file__).parent
STEPS = 24
TOY = ["model.family=toy", "model.width=6", "model.depth=3"]
SWEEP = """
name: families
run:
  extends: {run}
  output: {folder}
  evaluation: {{every: 0}}
ladder:
  dpot: {{}}
  toy: {{family: toy, width: 6, target: residual}}
windows: [16]
resources: {{workers: 1}}
"""


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The toy is a family in this process and in all that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setitem(FAMILIES, "toy", "toy_family")
        repository, inherited = HERE.parents[1], os.environ.get("PYTHONPATH", "")
        paths = [HERE / "toy_registry", HERE, repository, *filter(None, [inherited])]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
        yield


@pytest.fixture(scope="module")
def undisturbed(start: Any) -> Any:
    return start("toy", *TOY).ended()


@pytest.fixture(scope="module")
def stopped(start: Any, undisturbed: Any) -> Any:
    """The run of `undisturbed`, stopped by a signal in the middle."""
    training = start("toy_stopped", *TOY)
    spool = training.directory / SPOOL
    while training.process.poll() is None:
        if spool.exists() and max(read_metrics(spool).get("train/loss", {}), default=0) >= 6:
            training.process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    return training.ended()


def losses(directory: Path) -> dict[int, float]:
    return read_metrics(directory / SPOOL)["train/loss"]


@pytest.mark.distributed
def test_it_trains_and_learns(undisturbed: Any) -> None:
    assert undisturbed.code == 0, undisturbed.err
    result = read_result(undisturbed.directory)
    assert result is not None
    assert (result.steps, result.parameters, result.block_parameters) == (STEPS, 1058, 990)
    scores = read_metrics(undisturbed.directory / SPOOL)["eval/mean/rel_l2"]
    assert scores[STEPS] < scores[8]


@pytest.mark.distributed
def test_it_resumes_where_it_was_stopped(start: Any, undisturbed: Any, stopped: Any) -> None:
    assert "was stopped by SIGTERM at step" in stopped.err
    last = max(losses(stopped.directory))
    assert 6 <= last < STEPS
    resumed = start("toy_stopped", *TOY).ended()
    assert resumed.code == 0, resumed.err
    assert f"resuming at step {last}" in resumed.out
    assert losses(resumed.directory) == losses(undisturbed.directory)


@pytest.mark.distributed
def test_its_weights_are_opened_scored_and_described(
    undisturbed: Any, stopped: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = dpot_scale.load_model(undisturbed.directory)
    frames = torch.randn(2, 4, 2, 16, 16)
    assert type(network).__name__ == "Toy"
    assert network(frames).frames.shape == (2, 1, 2, 16, 16)
    for folder in (undisturbed.directory, stopped.directory):
        assert evaluate([str(folder), "--out", str(tmp_path / folder.name)]) == 0
        assert weights(["inspect", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "family              toy" in printed
    result = read_result(undisturbed.directory)
    assert result is not None
    for name, score in result.evaluation.items():
        assert f"{name} " in printed
        assert f"{score.rel_l2:.4f}" in printed


@pytest.mark.distributed
def test_its_weights_are_exported(
    undisturbed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = tmp_path / "toy.safetensors"
    assert weights(["export", str(undisturbed.directory), "--out", str(ours)]) == 0
    expected = dpot_scale.load_model(undisturbed.directory).state_dict()
    torch.testing.assert_close(dpot_scale.load_model(ours).state_dict(), expected, rtol=0, atol=0)
    assert weights(["export", str(ours), "--out", str(tmp_path / "toy.pth")]) == 2
    assert "the released .pth format holds a dpot" in capsys.readouterr().err


@pytest.mark.ray
def test_two_families_in_one_sweep(tmp_path: Path, tiny_yaml: Path, undisturbed: Any) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(SWEEP.format(run=tiny_yaml, folder=tmp_path))
    ran = subprocess.run(
        [sys.executable, "-m", "dpot_scale.sweep", "run", "--config", str(config)],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = (tmp_path / "families" / "report.md").read_text()
    assert "2 of 2 trials finished" in report
    with (tmp_path / "families" / "results.csv").open(newline="") as file:
        parameters = {row["size"]: int(row["parameters"]) for row in csv.DictReader(file)}
    assert parameters["toy"] == 6 * 8 + 6 + 2 * (9 * 36 + 6) + 6 * 2 + 2
    assert parameters.keys() == {"dpot", "toy"}
