"""What the driver of a sweep tells MLflow and the user at the end."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.scaling import launcher
from dpot_scale.scaling.controller import Controller
from dpot_scale.scaling.driver import run_sweep
from dpot_scale.scaling.plan import plan
from dpot_scale.tracking.mlflow_run import MlflowRun

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
    monkeypatch.setattr(launcher, "ray_launcher", lambda _: nullcontext())
    monkeypatch.setattr(MlflowRun, "close", lambda _, how, **__: told.append(how))
    with pytest.raises(type(error)) as raised:
        run_sweep(sweep, plan(sweep), print)
    assert told == [status]
    says_how = str(raised.value).startswith("interrupted; to continue: ")
    assert says_how == (status == "KILLED")


def test_weights_that_are_missing_are_told_before_anything_is_made(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pth"
    design = f"design=[{{start: {{scratch: null, pretrained: {missing}}}}}]"
    sweep = resolve_sweep_paths(load_sweep("quickstart", [*NO_SERVICES, design]), tmp_path)
    with pytest.raises(CheckpointError, match=f"^start.source: .*{missing}"):
        run_sweep(sweep, plan(sweep), print)
    assert not sweep.directory.exists()
