"""The doctor as a command: alone, under a launcher, and on a Ray cluster."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpot_scale import doctor
from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.diagnosis import examination
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.diagnosis.machine import versions
from dpot_scale.diagnosis.tracking import mlflow
from dpot_scale.engine.runtime import World
from dpot_scale.runs import agreement

ROOT = Path(__file__).parents[1]
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def without_ray() -> dict[str, str]:
    """The environment, which names no cluster and no token."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}


def ran(launcher: list[str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    options = [f"output={folder}", "tracking.mlflow_uri=null", *words]
    return subprocess.run(
        [sys.executable, *launcher, "dpot_scale.doctor", *options],
        cwd=ROOT,
        env=without_ray() | {"OMP_NUM_THREADS": "1"},
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


def test_data_that_are_absent_stop_a_run_and_no_other_check(tmp_path: Path) -> None:
    """Where `paper_l` is to train is looked at before 300 GiB of data are brought there."""
    done = ran(["-m"], tmp_path, "data.suite=null", f"data.root={tmp_path / 'data'}")
    assert done.returncode == 1, done.stdout + done.stderr
    lacks = (
        f"{tmp_path / 'data'} lacks ns2d_fno_1e-3_generated, dr_pdb_generated, swe_pdb_generated"
    )
    assert re.search(rf"^data +stops +{re.escape(lacks)}$", done.stdout, re.M)
    assert "DeepSpeed and FairScale differ by" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 of these would stop a run"


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
@pytest.mark.timeout(900)
def test_on_a_ray_cluster_workers_examine_it(tmp_path: Path) -> None:
    words = ["--workers", "2", f"output={tmp_path}", "tracking.mlflow_uri=null"]
    done = subprocess.run(  # of its own: a process keeps the token of its first cluster
        [sys.executable, "-m", "dpot_scale.doctor", *words],
        cwd=ROOT,
        env=without_ray(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right on 2 ranks, by gloo" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "variable", "workers"),
    [
        ([], None, None),
        ([], "", None),
        (["--workers", "8"], None, 8),
        ([], "10.0.0.1:6379", 2),
        (["--config", "gpus"], "10.0.0.1:6379", 16),
        (["--config", "gpus", "--workers", "3"], None, 3),
    ],
)
def test_it_looks_at_a_cluster_where_one_is_named(
    words: list[str], variable: str | None, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    module = "dpot_scale.diagnosis.examination"
    fine = [Finding("disk", "ok", "large")]
    monkeypatch.setattr(f"{module}.examine", lambda _: asked.append(None) or fine)
    monkeypatch.setattr(
        f"{module}.examine_cluster", lambda _, r: asked.append(r.least_workers) or fine
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert doctor.main(words) == 0
    assert asked == [workers]


def test_of_a_sweep_it_looks_at_the_largest_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[RunConfig] = []
    monkeypatch.setattr("dpot_scale.diagnosis.examination.examine", lambda r: runs.append(r) or [])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    own = tmp_path / "own.yaml"
    own.write_text("extends: gpus\nname: own\nmax_attempts: 3\n")
    for source in ("gpus", str(own)):
        assert doctor.main(["--config", source, f"run.output={tmp_path}"]) == 0
    assert [run.model.dimensions()["width"] for run in runs] == [1536, 1536]
    assert {run.output for run in runs} == {tmp_path}


@pytest.mark.parametrize("text", ["extends: a.yaml\n", "name: [\n", "extends: gone.yaml\n"])
def test_a_config_that_is_none_is_a_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert doctor.main(["--config", str(tmp_path / "a.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


class Driver:
    """A driver whose workers run here, and find what they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.config = load_run("quickstart", [f"output={folder}", "tracking.mlflow_uri=null"])
        self.found = [versions(), mlflow(self.config.tracking)]
        monkeypatch.setattr(examination, "examine", lambda _: self.found)
        monkeypatch.setattr("dpot_scale.scaling.launcher.on_workers", self.on_workers)
        monkeypatch.setattr(agreement, "PATIENCE_SECONDS", 0.2)
        self.shares = True

    def on_workers(self, function: Any, task: Any, *_: object, **__: object) -> Any:
        if not self.shares:
            (self.config.output / examination.DRIVER).unlink()
        return function(task)

    def examined(self) -> list[Finding]:
        found = examination.examine_cluster(self.config, ResourcesConfig())
        assert not [path for path in self.config.output.iterdir() if path.is_file()]
        return found


def test_the_driver_of_a_ray_cluster_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(monkeypatch, tmp_path)
    storage = Finding("driver's storage", "ok", f"workers see it: {tmp_path}")
    assert driver.examined() == [*driver.found, storage]

    driver.found = [Finding("versions", "ok", "torch 1"), Finding("MLflow", "ok", "takes runs")]
    *_, of_driver, tracked = driver.examined()
    assert (of_driver.check, of_driver.verdict) == ("versions", "stops")
    assert of_driver.node.endswith(" (driver)")
    assert "from one image" in of_driver.to_do
    assert (tracked.check, tracked.found) == ("MLflow", "not used: tracking.mlflow_uri is null")


def test_a_driver_with_a_disk_of_its_own_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(monkeypatch, tmp_path)
    driver.shares = False
    *_, storage = driver.examined()
    assert (storage.check, storage.verdict) == ("driver's storage", "stops")
    assert "what the driver wrote there" in storage.found

    (tmp_path / "file").touch()
    driver.config = load_run("quickstart", [f"output={tmp_path / 'file' / 'runs'}"])
    (storage,) = examination.examine_cluster(driver.config, ResourcesConfig())
    assert (storage.check, storage.verdict) == ("storage", "stops")
    assert storage.node.endswith(" (driver)")


def nodes_of_two_versions(world: World) -> list[Finding]:
    """Both ranks are the first of their nodes, and one has another torch."""
    name = examination.socket.gethostname
    mine = [Finding("versions", "ok", f"torch 2.1{world.rank}"), Finding("flock", "ok", "works")]
    examination.socket.gethostname = lambda: f"node{world.rank}"
    try:
        nodes = examination._of_nodes(lambda: mine, replace(world, local_rank=0))
    finally:
        examination.socket.gethostname = name
    examination._compare_versions(nodes)
    return examination.merged(nodes)


@pytest.mark.distributed
def test_nodes_of_two_versions_are_told_apart(ranks: Any) -> None:
    to_do = "install the same versions on every node, from one image or environment"
    assert ranks.run(Path(__file__), "nodes_of_two_versions") == [
        Finding("versions", "stops", "torch 2.10", to_do, "node0"),
        Finding("versions", "stops", "torch 2.11", to_do, "node1"),
        Finding("flock", "ok", "works"),
    ]
