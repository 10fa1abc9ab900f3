"""Today's code opens what earlier versions wrote, and goes on with it: see formats/README.md.

`python tests/golden/test_formats.py` writes losses/resumed.json anew: see losses/README.md.
"""

import csv
import hashlib
import json
import runpy
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dpot_scale.checkpoints.checkpoint import committed, verify
from dpot_scale.checkpoints.shards import open_state
from dpot_scale.checkpoints.weights import load_model, read, read_data, read_model
from dpot_scale.config.load import load_run, load_suite
from dpot_scale.data.generation.suite import missing_datasets
from dpot_scale.data.store.dataset import INDEX, SPLITS, open_store
from dpot_scale.data.store.digest import dataset_digest
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.data.stream.reader import training_windows
from dpot_scale.engine.state import ADAM_STEPS
from dpot_scale.evaluate import main as evaluate
from dpot_scale.runs.contents import recorded
from dpot_scale.runs.folder import finished_before
from dpot_scale.runs.resolved import identify
from dpot_scale.runs.result import TrainingResult, read_result
from dpot_scale.sweep import main as sweep

FORMATS = Path(__file__).parent / "formats"
STORE, RUNS = FORMATS / "store", FORMATS / "runs"
EXPECTED = json.loads((FORMATS / "expected.json").read_text())
WRITTEN_ON = "torch 2.13.0+cpu, x86_64 AuthenticAMD AVX512"
STOPPED_AT = 11
RESUMED = Path(__file__).parent / "losses" / "resumed.json"
NEAR = 0.01  # relative: with other noise
ELSEWHERE = 1e-6  # relative: other kernels add up in another order
# Of formats/second/store.
UNEVEN = "2e75c6cc918f"
UNEVEN_VALUES = "0afdbdc347153c0f00206f2918c1a98457461192c7a94581d30cb5ae3f0ef2a0"
# Of formats/third/store.
UNITS = "fce7fe1fb0cc"
UNITS_VALUES = "822cc7469b145e19dc7b71586a49c78cb6077f41f1466771e467fa7e1090d0ff"
TRIALS = ["narrow_w96_5641ef", "wide_w96_b7c438"]

losses = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "compare_losses.py"))
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A copy of the results, to write into."""
    return shutil.copytree(RUNS, tmp_path / "runs")


def test_store_holds_the_same_windows_and_values() -> None:
    stores = {name: open_store(STORE, name) for name in EXPECTED["windows"]}
    windows = training_windows(stores, 5)
    assert {name: len(some) for name, some in windows.items()} == EXPECTED["windows"]
    for name, store in stores.items():
        assert store.num_trajectories("valid") == 0
        for split in ("train", "test"):
            digest = hashlib.sha256()
            for trajectory in range(store.num_trajectories(split)):
                digest.update(store.read(split, trajectory, 0, store.num_frames(split)).tobytes())
            assert digest.hexdigest() == EXPECTED["values"][f"{name} {split}"]
        assert verify_dataset(store).problems == []


def test_store_of_the_second_version_holds_trajectories_of_any_length() -> None:
    store = open_store(FORMATS / "second" / "store", "uneven")
    assert {split: store.lengths(split) for split in SPLITS} == {
        "train": [(2, 5), (1, 3)],
        "valid": [(1, 4)],
        "test": [(1, 6), (1, 2)],
    }
    assert len(training_windows({"uneven": store}, 3)["uneven"]) == 3 + 3 + 1
    digest = hashlib.sha256()
    for split in SPLITS:
        for trajectory in range(store.num_trajectories(split)):
            frames = store.read(split, trajectory, 0, store.num_frames(split, trajectory))
            digest.update(frames.tobytes())
    assert digest.hexdigest() == UNEVEN_VALUES
    assert verify_dataset(store).problems == []
    index = read_index(store.folder / INDEX)
    assert dataset_digest(index) == UNEVEN
    assert (index.info.fluid_mask, index.info.coordinates[0]) == ("mask", (1 / 6, 0.5, 5 / 6))
    assert store.times("train", 1).tolist() == [0, 0.5, 2, 4.5, 8]
    assert store.times("test", 1).tolist() == [0, 0.25]
    assert store.parameters("train")["frame_interval"].tolist() == [0.25, 0.5, 0.25]


def test_store_is_known_as_that_of_its_recipe() -> None:
    assert missing_datasets(load_suite(str(FORMATS / "suite.yaml")), STORE) == []


def resume(folder: Path) -> tuple[dict[str, dict[int, float]], TrainingResult]:
    """Train the stopped run to its end; return its curves and its result."""
    resumed = shutil.copytree(RUNS / "stopped", folder / "run")
    training = losses.started(str(resumed / "config.yaml"), [f"data.root={STORE}"], output=folder)
    curves = losses.ended(training, folder)
    assert f"resuming at step {STOPPED_AT}\n" in (folder / "log").read_text()
    result = read_result(resumed)
    assert result is not None
    return curves, result


@pytest.mark.distributed
def test_checkpoint_resumes_to_the_end_of_the_run(tmp_path: Path) -> None:
    """Its noise is another one than that of the first version, so it ends only nearly there."""
    found, result = resume(tmp_path)
    golden = json.loads(RESUMED.read_text())
    undisturbed = losses.read(RUNS / "finished")
    expected = {
        key: {step: value for step, value in curve.items() if step <= STOPPED_AT}
        | {int(step): value for step, value in golden["curves"][key].items()}
        for key, curve in undisturbed.items()
    }
    lines, largest = losses.compare(expected, found)
    assert largest <= (0 if losses.machine() == WRITTEN_ON else ELSEWHERE), lines
    last = max(found["train/loss"])
    assert found["train/loss"][last] == pytest.approx(undisturbed["train/loss"][last], rel=NEAR)
    finished = read_result(RUNS / "finished")
    assert finished is not None
    for name, score in finished.evaluation.items():
        assert dict(result.evaluation[name]) == pytest.approx(golden["scores"][name], rel=1e-5)
        assert dict(result.evaluation[name]) == pytest.approx(dict(score), rel=NEAR)


def test_checkpoint_holds_the_whole_model() -> None:
    exported = load_model(RUNS / "finished" / "model.safetensors")
    weights = read(RUNS / "stopped")
    assert weights.model.dimensions() == exported.config.dimensions()
    exported.load_state_dict(weights.state)


def test_finished_run_is_finished(runs: Path) -> None:
    config = load_run(str(runs / "finished" / "config.yaml"), [f"output={runs}"])
    result = finished_before(identify(config))
    assert result is not None
    assert (result.steps, result.parameters, result.world_size) == (24, 2839, 1)


@pytest.mark.parametrize("name", ["finished", "stopped"])
def test_a_run_of_the_second_version_is_that_run(name: str, tmp_path: Path) -> None:
    runs = shutil.copytree(FORMATS / "second", tmp_path / "runs")
    config = load_run(str(runs / name / "config.yaml"), [f"output={runs}", f"data.root={STORE}"])
    run = identify(config)
    result = finished_before(run)  # refuses a folder of another run
    assert recorded(runs / name) == run.contents.record()
    if name == "finished":
        assert result is not None
        assert (result.identity, result.steps) == (run.identity, 24)
        return
    assert result is None
    (checkpoint,) = committed(runs / name / "checkpoints")
    assert verify(checkpoint) == []
    assert (checkpoint.marker.identity, checkpoint.state.step) == (run.identity, STOPPED_AT)
    assert checkpoint.marker.contents == run.contents.record()


@pytest.mark.parametrize("source", ["finished", "finished/model.safetensors", "stopped"])
def test_weights_of_the_second_version_are_a_whole_model(source: str) -> None:
    weights = read(FORMATS / "second" / source)
    assert weights.model.family == "dpot"
    assert sum(tensor.numel() for tensor in weights.state.values()) == 2839
    assert read_model(FORMATS / "second" / source) == weights.model
    load_model(FORMATS / "second" / source)


def test_weights_of_the_third_version_say_what_they_were_trained_on() -> None:
    run = FORMATS / "third" / "finished"
    (checkpoint,) = committed(run / "checkpoints")
    assert (checkpoint.marker.format, verify(checkpoint)) == (3, [])
    exported, kept = read(run / "model.safetensors"), read(checkpoint.folder)
    assert exported.data == kept.data == read_data(run) == read_data(checkpoint.folder)
    assert exported.data is not None
    assert list(exported.data.datasets) == ["dr_pdb_generated", "swe_coarse"]
    for name, channels in exported.data.datasets.items():
        store = open_store(STORE, name)
        assert (channels.names, channels.frame_interval) == (
            store.info.channels,
            store.info.frame_interval,
        )
        assert (channels.mean, channels.std) == (store.statistics.mean, store.statistics.std)
    assert exported.model.dimensions() == kept.model.dimensions()
    assert all(torch.equal(kept.state[name], value) for name, value in exported.state.items())


def test_weights_of_the_fifth_version_say_on_which_grids_they_saw_their_data() -> None:
    exported = read(FORMATS / "third" / "finished" / "model.safetensors").data
    found = read_data(FORMATS / "fifth" / "model.safetensors")
    assert exported is not None
    assert found is not None
    assert (exported.format, exported.shapes) == (1, None)
    assert (found.format, found.shapes, found.datasets) == (2, "native", exported.datasets)


def test_a_run_of_the_third_version_is_that_run(tmp_path: Path) -> None:
    runs = shutil.copytree(FORMATS / "third", tmp_path / "runs")
    config = load_run(
        str(runs / "finished" / "config.yaml"), [f"output={runs}", f"data.root={STORE}"]
    )
    result = finished_before(identify(config))
    assert result is not None
    assert (result.identity, result.steps) == (identify(config).identity, 24)


def test_a_checkpoint_of_the_fourth_version_is_of_tensors_alone() -> None:
    run = FORMATS / "fourth" / "finished"
    (checkpoint,) = committed(run / "checkpoints")
    assert verify(checkpoint) == []
    assert (checkpoint.state.step, checkpoint.marker.time) == (24, 1795716931.2562199)
    stored, exported = open_state(checkpoint.folder), read(run / "model.safetensors").state
    assert stored.numbers == {ADAM_STEPS: 24}
    assert stored.kinds.keys() == {"weight", "exp_avg", "exp_avg_sq"}
    for name, tensor in exported.items():
        assert torch.equal(stored.whole(name), tensor)
        assert stored.read("exp_avg_sq", name).count_nonzero() > 0


def test_store_of_the_third_version_has_units_and_no_known_lengths() -> None:
    store = open_store(FORMATS / "third" / "store", "units")
    assert store.info.labels == ("u [m/s]", "p")
    assert store.info.time_unit == "s"
    assert store.info.ends == ((0.0, 3.0), (0.0, 5.0))
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for trajectory in range(store.num_trajectories(split)):
            digest.update(store.read(split, trajectory, 0, store.num_frames(split)).tobytes())
    assert digest.hexdigest() == UNITS_VALUES
    assert verify_dataset(store).problems == []
    assert dataset_digest(read_index(store.folder / INDEX)) == UNITS


def test_exported_weights_forecast_as_they_did() -> None:
    model = load_model(RUNS / "finished" / "model.safetensors").eval()
    history = open_store(STORE, "dr_pdb_generated").read("test", 0, 0, model.config.history)
    with torch.no_grad():
        forecast = model(torch.from_numpy(history)[None]).frames
    assert forecast.flatten()[::32].tolist() == pytest.approx(EXPECTED["forecast"], rel=1e-4)


def test_exported_weights_have_the_scores_of_their_run(runs: Path, tmp_path: Path) -> None:
    weights = runs / "finished" / "model.safetensors"
    assert evaluate([str(weights), f"data.root={STORE}", "--out", str(tmp_path / "scores")]) == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["evaluation"]
    result = read_result(runs / "finished")
    assert result is not None
    for name, score in result.evaluation.items():
        assert scores[name] == pytest.approx(dict(score), rel=1e-5)


def test_sweep_status_and_report(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = runs / "sweep"
    written = list(csv.DictReader((directory / "results.csv").open()))
    again = ["--config", str(directory / "sweep.yaml"), f"run.output={runs}"]
    assert sweep(["status", *again]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line and line[0] in TRIALS] == [
        [trial, "finished", "24/24", "1"] for trial in TRIALS
    ]
    assert sweep(["report", *again]) == 0
    found = list(csv.DictReader((directory / "results.csv").open()))
    assert [
        {key: row[key] for key in before} for row, before in zip(found, written, strict=True)
    ] == written
    # Nothing is left to do: no trial starts, and no cluster.
    assert sweep(["run", *again]) == 0
    said = capsys.readouterr().out
    assert all(f"{trial}: finished before\n" in said for trial in TRIALS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        curves, result = resume(Path(temporary))
    later = {
        key: {step: value for step, value in curve.items() if step > STOPPED_AT}
        for key, curve in curves.items()
    }
    scores = {name: dict(score) for name, score in result.evaluation.items()}
    RESUMED.write_text(json.dumps({"curves": later, "scores": scores}, indent=1) + "\n")
