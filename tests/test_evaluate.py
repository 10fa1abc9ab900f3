"""Scoring weights files: what training reported, and mistakes in one sentence."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpot_scale.checkpoints.source import SOURCE, config_of
from dpot_scale.checkpoints.weights import read
from dpot_scale.checkpoints.weights_file import save_released, stream_model
from dpot_scale.config.load import dump, load_run
from dpot_scale.evaluate import main
from dpot_scale.evaluation.inputs import name_of_scores
from dpot_scale.evaluation.scores import SCORES_FILE, read_scores
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.prepare import main as prepare
from dpot_scale.runs.result import read_result
from dpot_scale.train import main as train

RELEASED = Path(__file__).parent / "golden" / "official_format_small.pth"

pytestmark = pytest.mark.timeout(400)  # `finished` is a training


def weights_of(finished: Any) -> str:
    assert finished.code == 0, finished.err
    return str(finished.directory / "model.safetensors")


def scores_in(out: Path) -> dict[str, dict[str, float]]:
    content: dict[str, dict[str, float]] = json.loads((out / SCORES_FILE).read_text())["evaluation"]
    return content


def table(text: str) -> list[str]:
    """The score table in a text, which is printed alike by both entries."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("held-out rel_l2  "))
    return lines[first : first + 4]


@pytest.mark.distributed
@pytest.mark.parametrize("source", ["model.safetensors", ".", "checkpoints/step_*"])
def test_the_scores_are_those_that_training_reported(
    source: str, finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.code == 0, finished.err
    newest = max(finished.directory.glob(source)) if source != "." else finished.directory
    assert main([str(newest), "--out", str(tmp_path)]) == 0
    result = read_result(finished.directory)
    assert result is not None
    found = scores_in(tmp_path)
    scored = json.loads((tmp_path / SCORES_FILE).read_text())["weights"]
    assert scored == str(newest / "model.safetensors" if source == "." else newest)
    assert list(found) == list(result.evaluation)
    for name, expected in result.evaluation.items():
        assert found[name] == pytest.approx(dict(expected), rel=1e-5), name
    # One dataset is stored on another grid than that of the model, on which training compares.
    shown, trained = table(capsys.readouterr().out), table(finished.out)
    assert shown[:3] == trained[:3]
    assert shown[3].split()[0] == trained[3].split()[0] == "swe_coarse"
    details = read_scores(tmp_path / SCORES_FILE)[""].details
    assert {name: one.grid for name, one in details.items()} == {
        "dr_pdb_generated": (16, 16), "swe_pdb_generated": (16, 16), "swe_coarse": (8, 8),
    }  # fmt: skip
    assert f"{details['swe_coarse'].model['rel_l2'].rollout:.4f}" == shown[3].split()[1]
    assert {path.name for path in tmp_path.iterdir()} == {
        SCORES_FILE,
        "scores.csv",
        "scores.tex",
        "error_growth.png",
        *(f"{kind}_{name}.png" for kind in ("rollout", "spectra") for name in found),
        *(f"frames_{name}.npz" for name in found),
    }


@pytest.mark.distributed
def test_a_run_as_the_improved_preset_is_scored_as_training_did(start: Any, tmp_path: Path) -> None:
    overrides = [
        "data.normalize=dataset",
        "data.strides=[1, 2]",
        "data.mask_points=true",
        "objective.noise_unit=std",
        "optim.decoupled_weight_decay=true",
    ]
    ended = start("improved", *overrides).ended()
    assert main([weights_of(ended), "--out", str(tmp_path)]) == 0
    result = read_result(ended.directory)
    assert result is not None
    for name, expected in result.evaluation.items():
        assert scores_in(tmp_path)[name] == pytest.approx(dict(expected), rel=1e-5), name


@pytest.mark.distributed
def test_released_weights_and_overrides_on_both_sides(
    finished: Any, tiny_yaml: Path, tmp_path: Path
) -> None:
    weights = read(Path(weights_of(finished)))
    save_released(tmp_path / "model.pth", weights)
    one, other = "data.weights={swe_coarse: 1}", "evaluation.trajectories=1"
    command = [one, "--config", str(tiny_yaml), "--out", str(tmp_path / "out"), other]
    assert main([str(tmp_path / "model.pth"), *command]) == 0
    assert list(scores_in(tmp_path / "out")) == ["swe_coarse"]


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """The folder of a dataset that is imported from one trajectory."""
    fields = np.random.default_rng(0).standard_normal((1, 9, 16, 16, 2)).astype(np.float32)
    np.save(tmp_path / "vortex.npy", fields)
    layout = ["--layout", "NTXYC", "--channels", "u,v", "--dt", "0.1", "--domain", "1,1"]
    command = ["import", str(tmp_path / "vortex.npy"), "--out", str(tmp_path / "single"), *layout]
    assert prepare(command) == 0
    return tmp_path / "single"


def test_a_single_trajectory_is_for_evaluation_alone(
    capsys: pytest.CaptureFixture[str], single: Path
) -> None:
    said = capsys.readouterr().out
    assert "vortex: 1 test trajectories of 9 frames in " in said
    assert said.splitlines()[-1].endswith("; it is for evaluation alone")
    assert prepare(["verify", str(single)]) == 0
    note = "note: vortex: it is for evaluation alone: there is no trajectory to train on"
    assert note in capsys.readouterr().out


def test_training_on_data_for_evaluation_is_one_sentence(
    single: Path, tiny_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["data.weights={vortex: 1}", "data.suite=null", f"data.root={single}"]
    capsys.readouterr()
    assert train(["--config", str(tiny_yaml), f"output={tmp_path / 'runs'}", *data]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: dataset vortex is for evaluation alone")
    assert not (tmp_path / "runs").exists()


def test_data_for_evaluation_alone_are_scored(
    single: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    model = load_run(str(tiny_yaml)).model
    network = family_of(model).network(model, KEEP_ALL, "float32")
    weights = tmp_path / "model.safetensors"
    stream_model(weights, model, ((name, p.detach()) for name, p in network.named_parameters()))
    data = ["data.weights={vortex: 1}", "data.suite=null", f"data.root={single}"]
    command = [str(weights), "--config", str(tiny_yaml), "--out", str(tmp_path / "out"), *data]
    assert main([*command, "data.normalize=dataset"]) == 0
    assert scores_in(tmp_path / "out")["vortex"]["rel_l2"] > 0


@pytest.mark.distributed
def test_bare_it_takes_the_config_beside_the_weights(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([weights_of(finished)]) == 0
    assert (tmp_path / "evaluation" / finished.directory.name / SCORES_FILE).is_file()


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.grid=32", "model.history=5"],
            "the config says model.grid=32, model.history=5, "
            "but the weights need: model.grid=16 model.history=4",
        ),
        (["model.channels=3"], "but the weights need: model.channels=2"),
        (["data.suite=null", "data.weights={absent: 1}"], "dataset 'absent' is missing under"),
        (["evaluation.rollout_frames=6"], "stores 9 test frames"),
        (["evaluation.batch=none"], "evaluation.batch=none: must be a whole number"),
        (["--out", "/dev/null/out"], "cannot write to /dev/null/out: Not a directory"),
    ],
)
def test_a_mistake_is_one_sentence(
    overrides: list[str],
    message: str,
    finished: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([weights_of(finished), "--out", str(tmp_path / "out"), *overrides]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.distributed
def test_missing_data_are_made_where_the_command_says(finished: Any, tmp_path: Path) -> None:
    command = [weights_of(finished), "--out", str(tmp_path / "out")]
    assert main([*command, f"data.root={tmp_path / 'data'}"]) == 0
    assert (tmp_path / "data" / "swe_coarse" / "index.json").is_file()


def test_no_data_are_made_where_a_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone" / "data"
    config = tmp_path / "run" / "config.yaml"
    config.parent.mkdir()
    config.write_text(dump(load_run("quickstart", [f"data.root={gone}"])))
    weights = tmp_path / "run" / "model.safetensors"
    weights.touch()
    # The config is that of the first source that is of a run.
    commands = ([weights], [weights, "--config", config], [RELEASED, weights])
    for command in commands:
        assert main(list(map(str, command))) == 2
        said = capsys.readouterr().err
        assert said == (
            "error: datasets 'ns2d_fno_1e-3_generated', 'dr_pdb_generated', 'swe_pdb_generated' "
            f"are missing under {gone}, the data.root of {config}; say with data.root=DIR where "
            "the datasets are (what DIR lacks of suite quickstart is made there)\n"
        )
    assert not gone.parent.exists()


def test_a_folder_that_is_no_run_is_answered_with_the_weights_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.safetensors").touch()
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds no checkpoint; give {SOURCE}; it holds "
        f"{tmp_path}/model.safetensors\n"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.pth", "absent.pth does not exist; give the folder of a run, a checkpoint"),
        ("text.pth", "is a web page: the download failed (text)"),
    ],
)
def test_a_file_that_holds_no_weights(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.pth").write_text("text")
    assert main([str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_weights_of_another_shape_than_the_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(RELEASED), "--config", "quickstart"]) == 2
    assert "but the weights need: model.grid=" in capsys.readouterr().err


def test_a_printed_config_is_the_one_of_the_run_the_weights_lie_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    (run / "config.yaml").write_text("extends: quickstart\nname: mine\n")
    weights = str(run / "model.safetensors")
    assert main([weights, "--print-config", "evaluation.trajectories=3"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    config = load_run(str(printed))
    assert (config.name, config.evaluation.trajectories) == ("mine", 3)
    assert main([weights, "--config", "paper_ti", "--print-config"]) == 0
    assert "name: paper_ti" in capsys.readouterr().out


def test_weights_are_named_after_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    weights = run / "model.safetensors"
    assert name_of_scores(weights, config_of(weights)) == "model", "it lies in no run"
    (run / "config.yaml").touch()
    checkpoint = run / "checkpoints" / "step_000500"
    checkpoint.mkdir(parents=True)
    monkeypatch.chdir(run)
    for source, name in {
        weights: "mine",
        Path("model.safetensors"): "mine",
        run: "mine",
        Path(): "mine",
        checkpoint: "mine_step_000500",
        Path("checkpoints/step_000500"): "mine_step_000500",
    }.items():
        assert name_of_scores(source, config_of(source)) == name, source


def test_without_arguments_only_the_weights_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("are required: source")


def test_help() -> None:
    program = [sys.executable, "-m", "dpot_scale.evaluate", "--help"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert all(word in shown for word in ("--config", "--out", "key.sub=value", "quickstart"))


@pytest.mark.parametrize("name", ["x" * 300, f"{'y' * 300}.pth"])
def test_a_name_that_no_file_can_have_is_one_sentence(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([name])
    assert capsys.readouterr().err.startswith(f"error: {name[:60]}...: no file can have this name")
