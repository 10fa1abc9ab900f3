"""What the driver of a sweep tells MLflow and the user at the end."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from test_kills import WORLD, Engine

from dpot_scale.checkpoints.checkpoint import TrainState, checkpoint_name
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import CHECKPOINTS, MARKER, resolve_sweep_paths
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.scaling import launcher
from dpot_scale.scaling.cluster import Cluster
from dpot_scale.scaling.controller import Controller
from dpot_scale.scaling.driver import run_sweep
from dpot_scale.scaling.fitting import Node
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.report.text import REPORT
from dpot_scale.tracking.mlflow_run import MlflowRun
from dpot_scale.tracking.spool import SPOOL
from tests.results import finish

NO_SERVICES = ["run.tracking.mlflow_uri=null", "run.data.suite=null"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(AssertionError(), "FAILED"), (ConfigError(), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_mlflow_tells_a_bug_from_an_interrupt(
    error: BaseException, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart", NO_SERVICES), tmp_path)
    told: list[str] = []

    def fail(_: Controller) -> None:
        raise error

    monkeypatch.setattr(Controller, "run", fail)
    cluster = Cluster(resources=sweep.resources, trials=1)
    workers = SimpleNamespace(cluster=cluster, free_workers=int)
    monkeypatch.setattr(launcher, "ray_launcher", lambda _: nullcontext(workers))
    monkeypatch.setattr(MlflowRun, "close", lambda _, how, **__: told.append(how))
    with pytest.raises(type(error)) as raised:
        run_sweep(sweep, plan(sweep), print, preset="a preset")
    assert told == [status]
    says_how = str(raised.value).startswith("interrupted; to continue: ")
    assert says_how == (status == "KILLED")


def test_weights_that_are_missing_are_told_before_anything_is_made(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pth"
    design = f"design=[{{start: {{scratch: null, pretrained: {missing}}}}}]"
    sweep = resolve_sweep_paths(load_sweep("quickstart", [*NO_SERVICES, design]), tmp_path)
    with pytest.raises(CheckpointError, match=f"^start.source: .*{missing}"):
        run_sweep(sweep, plan(sweep), print, preset="a preset")
    assert not sweep.directory.exists()


def test_what_the_nodes_cannot_hold_is_refused_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart"), tmp_path)
    resources = sweep.resources.model_copy(update={"gpus_per_worker": 0})
    small = Node(cpus=2.0, gpus=0.0, gib=1.0, gpu_gib=None)
    workers = SimpleNamespace(
        cluster=Cluster(resources=resources, trials=1, nodes=[small]), free_workers=int
    )
    monkeypatch.setattr(launcher, "ray_launcher", lambda _: nullcontext(workers))
    began: list[Controller] = []
    monkeypatch.setattr(Controller, "run", lambda controller: began.append(controller) or {})
    with pytest.raises(ConfigError, match=r"2 workers of the cluster has 0\.5; no sharding, micro"):
        run_sweep(sweep, plan(sweep), print, preset="a preset")
    assert not began
    assert not sweep.run.data.root.exists()
    # What has trained before fits.
    trials = plan(resolve_sweep_paths(load_sweep("quickstart", NO_SERVICES), tmp_path))
    for trial in trials:
        trial.run.directory.mkdir(parents=True)
        (trial.run.directory / SPOOL).write_text("")
    sweep = resolve_sweep_paths(load_sweep("quickstart", NO_SERVICES), tmp_path)
    run_sweep(sweep, trials, print, preset="a preset")
    assert len(began) == 1


def test_a_cluster_without_gpus_is_told_of_fp16_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*NO_SERVICES, "run.engine.deepspeed=zero3_fp16"]
    sweep = resolve_sweep_paths(load_sweep("quickstart", settings), tmp_path)
    resources = sweep.resources.model_copy(update={"gpus_per_worker": 0})
    workers = SimpleNamespace(cluster=Cluster(resources=resources, trials=1), free_workers=int)
    monkeypatch.setattr(launcher, "ray_launcher", lambda _: nullcontext(workers))
    with pytest.raises(
        ConfigError, match=r"^trial E64: engine\.deepspeed=zero3_fp16 computes in f"
    ):
        run_sweep(sweep, plan(sweep), print, preset="a preset")


def test_a_sweep_that_has_ended_sends_what_the_archive_did_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*NO_SERVICES, f"run.checkpoint.archive=file://{tmp_path}/archive"]
    sweep = resolve_sweep_paths(load_sweep("quickstart", settings), tmp_path)
    trials = plan(sweep)
    for trial in trials:
        finish(trial)
        directory, kept = trial.run.directory / CHECKPOINTS, CheckpointConfig()
        store = CheckpointStore(directory, config=kept, identity=trial.id, world=WORLD)
        store.save(Engine(), TrainState(step=trial.run.steps))
        store.close()
    (sweep.directory / REPORT).write_text("of before")
    for is_again in (False, True):
        run_sweep(sweep, trials, print, preset="a preset")
        said = capsys.readouterr().out
        for trial in trials:
            name = checkpoint_name(trial.run.steps)
            assert (f"sent {name} of {trial.run.directory} to " in said) is not is_again
            assert (tmp_path / "archive" / trial.id / name / MARKER).is_file()
