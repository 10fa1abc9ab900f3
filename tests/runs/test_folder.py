"""A run or sweep never writes into a folder of another kind or identity."""

from pathlib import Path

import numpy as np
import pytest

from dpot_scale import sweep as sweep_entry
from dpot_scale import train as train_entry
from dpot_scale.config.load import dump, load_run, load_sweep, presets
from dpot_scale.config.places import resolve_run_paths, resolve_sweep_paths
from dpot_scale.config.run import RunConfig
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import SPLITS
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import ConfigError
from dpot_scale.runs.folder import finished_before
from dpot_scale.runs.resolved import identify
from dpot_scale.scaling.identified import trials_directory
from dpot_scale.scaling.journal import Journal, hold_sweep
from dpot_scale.tracking.spool import SPOOL


def refused(entry: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert entry.main(arguments) == 2  # type: ignore[attr-defined]
    (line,) = capsys.readouterr().err.splitlines()
    return line


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def begun_run(output: Path, *overrides: str) -> RunConfig:
    """A run as it lies before its first checkpoint."""
    run = resolve_run_paths(load_run("quickstart", [f"output={output}", *overrides]), output)
    run.directory.mkdir(parents=True)
    (run.directory / "config.yaml").write_text(dump(run))
    (run.directory / SPOOL).touch()
    (run.directory / "mlflow_run_id").write_text("0123")
    return run


@pytest.mark.parametrize("made", ["journal", "trials", "config"])
def test_a_run_in_the_folder_of_a_sweep(
    made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = resolve_sweep_paths(
        load_sweep("quickstart", ["name=mine", f"run.output={tmp_path}"]), tmp_path
    )
    with hold_sweep(sweep):
        if made == "journal":
            Journal(sweep.directory).record("Ti", "started", attempt=1)
        elif made == "trials":
            trials_directory(sweep).mkdir()
        else:
            (sweep.directory / "sweep.yaml").write_text(dump(sweep))
    before = contents(tmp_path)
    said = refused(train_entry, ["name=mine", f"output={tmp_path}"], capsys)
    assert said.startswith(f"error: {tmp_path}/mine is the folder of a sweep (")
    assert said.endswith("; give this run another `name` or `output`")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["run", "report", "status"])
def test_a_sweep_in_the_folder_of_a_run(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun_run(tmp_path, "name=mine")
    before = contents(tmp_path)
    said = refused(sweep_entry, [command, "name=mine", f"run.output={tmp_path}"], capsys)
    assert said == (
        f"error: {tmp_path}/mine is the folder of a run (config.yaml, {SPOOL} in it); "
        "give this sweep another `name` or `run.output`"
    )
    assert contents(tmp_path) == before


def test_a_run_in_the_folder_of_a_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = DatasetInfo(
        name="heat",
        equation="heat",
        channels=("t",),
        scored=(True,),
        spatial_axes=("x", "y"),
        grid=(4, 4),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="periodic",
        origin="imported",
        source="a test",
    )
    with StoreWriter(tmp_path, info, resume=False) as writer:
        for split in SPLITS:
            writer.append(split, np.ones((1, 2, 1, 4, 4), np.float32))
    said = refused(train_entry, ["name=heat", f"output={tmp_path}"], capsys)
    assert "is the folder of a dataset (index.json in it)" in said


def test_another_run_that_has_no_checkpoint_yet(tmp_path: Path) -> None:
    run = begun_run(tmp_path)
    assert finished_before(identify(run)) is None, "its own start, again"
    logs_more = run.model_copy(
        update={"tracking": run.tracking.model_copy(update={"log_every": 1})}
    )
    assert finished_before(identify(logs_more)) is None, "not another run"
    other = run.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="holds an unfinished run that was made with another"):
        finished_before(identify(other))


def test_no_two_presets_share_a_folder() -> None:
    runs = [load_run(name).directory for name in presets("run")]
    sweeps = [load_sweep(name).directory for name in presets("sweep")]
    assert len({*runs, *sweeps}) == len(runs) + len(sweeps)


def test_a_run_in_the_place_of_all_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = resolve_sweep_paths(
        load_sweep("quickstart", ["name=mine", f"run.output={tmp_path}"]), tmp_path
    )
    with hold_sweep(sweep):
        Journal(sweep.directory).record("Ti", "started", attempt=1)
    before = contents(tmp_path)
    for name in ("trials", "another"):
        said = refused(train_entry, [f"name={name}", f"output={sweep.directory}"], capsys)
        assert f"/mine/{name} lies in the folder of a sweep; give this run another `output`" in said
    assert contents(tmp_path) == before
