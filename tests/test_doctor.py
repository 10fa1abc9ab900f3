"""The doctor as a command: alone, under a launcher, and on a Ray cluster."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dpot_scale import doctor
from dpot_scale.diagnosis.finding import Finding

ROOT = Path(__file__).parents[1]
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def ran(launcher: list[str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    options = [f"output={folder}", "tracking.mlflow_uri=null", *words]
    return subprocess.run(
        [sys.executable, *launcher, "dpot_scale.doctor", *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "", "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.distributed
def test_under_a_launcher_one_rank_prints_what_all_found(tmp_path: Path) -> None:
    done = ran(LAUNCHER, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("check ") == 1
    assert "right on 2 ranks, by gloo" in done.stdout
    assert "DeepSpeed and FairScale differ by" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing stops a run"


def test_what_stops_a_run_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone, on a folder that is none: no rank is started, and DeepSpeed is not asked."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "file").touch()
    assert doctor.main([f"output={tmp_path / 'file' / 'runs'}", "tracking.mlflow_uri=null"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^storage +stops ", out, re.M)
    assert "ten steps" not in out


@pytest.mark.ray
def test_on_a_ray_cluster_workers_examine_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ["--workers", "2", f"output={tmp_path}", "tracking.mlflow_uri=null"]
    assert doctor.main(words) == 0
    assert "right on 2 ranks, by gloo" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "variable", "workers"),
    [([], None, None), (["--workers", "8"], None, 8), ([], "10.0.0.1:6379", 2)],
)
def test_it_looks_at_a_cluster_where_one_is_named(
    words: list[str], variable: str | None, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    module = "dpot_scale.diagnosis.examination"
    fine = [Finding("disk", "ok", "large")]
    monkeypatch.setattr(f"{module}.examine", lambda _: asked.append(None) or fine)
    monkeypatch.setattr(f"{module}.examine_cluster", lambda _, n: asked.append(n) or fine)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert doctor.main(words) == 0
    assert asked == [workers]
