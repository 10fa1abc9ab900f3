"""`evaluate` of several models, of registered ones, as published, and by several ranks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.load import dump, load_run
from dpot_scale.data.datasets import open_datasets
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.evaluate import main
from dpot_scale.evaluation.scores import METRICS, SCORES_FILE, read_scores
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.prepare import main as prepare
from dpot_scale.serving.registry import register
from dpot_scale.tracking.mlflow_client import RUN_ID_FILE, client


@pytest.fixture(scope="module")
def two(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two weights files that lie in no run."""
    folder = tmp_path_factory.mktemp("two")
    config = load_run(str(tiny_yaml))
    open_datasets(config.data, config.model, progress=lambda _: None)
    for seed, name in enumerate(("one", "other")):
        torch.manual_seed(seed)
        network = family_of(config.model).network(config.model, KEEP_ALL, "float32")
        save_model(folder / f"{name}.safetensors", config.model, network.state_dict())
    return folder / "one.safetensors", folder / "other.safetensors"


def test_several_models_in_one_table(
    two: tuple[Path, Path],
    tiny_yaml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    data = ["--data", str(tiny_yaml.parent / "data"), "--datasets", "swe_coarse"]
    shown = ["--leads", "1", "3", "99", "--out", str(tmp_path), "--figures", "pdf", "--animate"]
    assert main([str(two[0]), str(two[1]), *data, *shown]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == [
        "held-out",
        "swe_coarse",
        "other",
        "persistence",
    ]
    assert lines[4].endswith("8 x 8 points: swe_coarse")
    assert "not shown of swe_coarse: lead times 99; its last is 5" in lines
    found = read_scores(tmp_path / SCORES_FILE)
    assert list(found) == ["one", "other"]
    for name, line in zip(found, lines[1:], strict=False):
        rollout = found[name].details["swe_coarse"].model["rel_l2"].rollout
        assert f" {name} " in f"{line} "
        assert f"{rollout:.4f}" in line
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {
        SCORES_FILE, "scores.csv", "scores.tex", "error_growth.pdf", "rollout_swe_coarse.pdf",
        "spectra_swe_coarse.pdf", "rollout_swe_coarse.gif",
    }  # fmt: skip


def test_alone_a_model_has_the_scores_it_has_beside_others(
    two: tuple[Path, Path], tiny_yaml: Path, tmp_path: Path
) -> None:
    data = ["--data", str(tiny_yaml.parent / "data"), "evaluation.trajectories=1"]
    assert main([*map(str, two), *data, "--out", str(tmp_path / "both")]) == 0
    assert main([str(two[1]), *data, "--out", str(tmp_path / "alone")]) == 0
    alone = read_scores(tmp_path / "alone" / SCORES_FILE)[""]
    assert read_scores(tmp_path / "both" / SCORES_FILE)["other"] == alone
    assert {one.trajectories for one in alone.details.values()} == {1}


@pytest.fixture(scope="module")
def unlike(two: tuple[Path, Path], tiny_yaml: Path) -> tuple[str, str]:
    """Weights of a model that sees six frames and gives two, and of one with a single channel."""
    made = []
    for name, overrides in {
        "long": ["model.history=6", "model.horizon=2"],
        "one_channel": ["model.channels=1"],
    }.items():
        model = load_run(str(tiny_yaml), overrides).model
        network = family_of(model).network(model, KEEP_ALL, "float32")
        made.append(two[0].parent / f"{name}.safetensors")
        save_model(made[-1], model, network.state_dict())
    return str(made[0]), str(made[1])


def test_models_of_unlike_histories_forecast_the_same_frames(
    two: tuple[Path, Path],
    unlike: tuple[str, str],
    tiny_yaml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ["--data", str(tiny_yaml.parent / "data"), "--datasets", "swe_coarse", "--animate"]
    assert main([str(two[0]), unlike[0], *data, "--out", str(tmp_path / "both")]) == 0
    said = capsys.readouterr().out
    assert "all forecasts begin after 6 frames, the longest history of a model\n" in said
    assert main([unlike[0], *data, "--out", str(tmp_path / "alone")]) == 0
    assert "all forecasts begin" not in capsys.readouterr().out
    both = read_scores(tmp_path / "both" / SCORES_FILE)
    assert both["long"] == read_scores(tmp_path / "alone" / SCORES_FILE)[""]
    short, long = (one.details["swe_coarse"] for one in both.values())
    for metric, measured in short.persistence.items():
        assert len(measured.lead_times) == 3
        assert measured.lead_times == long.persistence[metric].lead_times, metric


def test_each_source_stands_once_under_a_name_of_its_own(
    two: tuple[Path, Path], tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(two[0], "flow_v1.safetensors")
    register(two[1], "flow", "sqlite:///mlflow.db")
    sources = ["flow_v1.safetensors", "models:/flow/1", "./flow_v1.safetensors", "models:/flow/1"]
    data = ["--data", str(tiny_yaml.parent / "data"), "--datasets", "swe_coarse"]
    uri = "tracking.mlflow_uri=sqlite:///mlflow.db"
    assert main([*sources, uri, *data, "--out", "out"]) == 0
    assert list(read_scores(Path("out") / SCORES_FILE)) == sources[:2]


def test_a_model_that_does_not_suit_the_data_is_named(
    two: tuple[Path, Path],
    unlike: tuple[str, str],
    tiny_yaml: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ["--data", str(tiny_yaml.parent / "data")]
    capsys.readouterr()
    assert main([str(two[0]), unlike[1], *data]) == 2
    assert capsys.readouterr().err == (
        "error: one_channel: dataset dr_pdb_generated has 2 channels; model.channels=1 is too few\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "vrms"], "there is no metric 'vrms' (did you mean 'vrmse'?); choose from: "),
        (["--datasets", "swe"], "there is no dataset 'swe' under "),
        (["--datasets", "swe_coarse", "--metric", "paper"], "'swe_coarse' is none of them"),
        (["--leads", "0"], "--leads 0: a lead time is a whole number of frames, from 1"),
        (["--leads", "1", "2.5"], "--leads 2.5: a lead time is"),
        (["--split", "valid"], "has no valid trajectories"),
        (["model.channels=3"], "but the weights need: model.channels=2"),
        (["--figures", "svg"], "argument --figures: invalid choice: 'svg'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(
    words: list[str],
    message: str,
    two: tuple[Path, Path],
    tiny_yaml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    data = ["--data", str(tiny_yaml.parent / "data"), "--out", str(tmp_path / "out")]
    try:
        code: object = main([str(two[0]), *data, *words])
    except SystemExit as ended:  # argparse's own
        code = ended.code
    assert code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert message in sentence
    assert not (tmp_path / "out").exists()


def test_a_folder_without_datasets_and_a_model_with_too_few_channels(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(two[0]), "--data", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no dataset; " in capsys.readouterr().err
    np.save(tmp_path / "flow.npy", np.zeros((2, 9, 16, 16, 3), np.float32))
    layout = ["--layout", "NTXYC", "--channels", "u,v,p"]
    assert prepare(["import", str(tmp_path / "flow.npy"), "--out", str(tmp_path), *layout]) == 0
    capsys.readouterr()
    assert main([str(two[0]), "--data", str(tmp_path)]) == 2
    assert "dataset flow has 3 channels; model.channels=2 is too few" in capsys.readouterr().err


def test_registered_weights_are_scored_and_their_run_gets_the_scores(
    two: tuple[Path, Path],
    tiny_yaml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow_client = client(uri)
    experiment = mlflow_client.create_experiment("e", artifact_location=str(tmp_path / "files"))
    run_id = mlflow_client.create_run(experiment).info.run_id
    assert register(two[0], "flow", uri, run_id) == "1"
    command = ["models:/flow/1", f"tracking.mlflow_uri={uri}", "--out", str(tmp_path / "out")]
    data = ["--data", str(tiny_yaml.parent / "data"), "--datasets", "swe_coarse"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    capsys.readouterr()
    assert main([*command, *data]) == 0
    printed = capsys.readouterr()
    assert f"added to the MLflow run {run_id} of flow_v1" in printed.out
    assert "scores and figures of models:/flow/1: " in printed.out
    assert "Downloading" not in printed.err
    assert not list(temporary.iterdir())
    found = read_scores(tmp_path / "out" / SCORES_FILE)[""]
    assert str(found.weights) == "models:/flow/1"
    logged = mlflow_client.get_run(run_id).data.metrics
    model = found.details["swe_coarse"].model
    assert logged["evaluate/swe_coarse/vrmse"] == model["vrmse"].rollout
    files = {file.path for file in mlflow_client.list_artifacts(run_id, "evaluation")}
    assert files >= {
        f"evaluation/{name}" for name in (SCORES_FILE, "scores.csv", "error_growth.png")
    }
    assert main(["models:/flow/2", f"tracking.mlflow_uri={uri}"]) == 2
    assert "models:/flow/2 cannot be read from" in capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it
    silent = ["tracking.mlflow_uri=null", "--out", str(tmp_path / "silent"), *data]
    assert main(["models:/flow/1", *silent]) == 2
    assert "nothing says where that is: set MLFLOW_TRACKING_URI" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["models:/flow/1", *silent]) == 0
    assert "added to the MLflow run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "goes_to"),
    [
        ("seed=0", "mlflow.db"),
        ("tracking.mlflow_uri=null", None),
        ("tracking={mlflow_uri: null}", None),
        ("tracking.mlflow_uri=sqlite:///moved.db", "moved.db"),
    ],
)
def test_scores_of_a_run_go_where_the_command_line_says(
    override: str,
    goes_to: str | None,
    two: tuple[Path, Path],
    tiny_yaml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    added: list[str] = []

    def log(uri: str, *scores: object) -> bool:
        added.append(uri)
        return bool(scores)

    monkeypatch.setattr("dpot_scale.evaluation.report.log_scores", log)
    run = tmp_path / "mine"
    run.mkdir()
    uri = f"tracking.mlflow_uri=sqlite:///{tmp_path}/mlflow.db"
    (run / "config.yaml").write_text(dump(load_run(str(tiny_yaml), [uri])))
    (run / RUN_ID_FILE).write_text("0123\n")
    shutil.copy(two[0], run / "model.safetensors")
    data = ["--data", str(tiny_yaml.parent / "data"), "--datasets", "swe_coarse"]
    capsys.readouterr()
    assert main([str(run / "model.safetensors"), override, *data]) == 0
    assert added == ([] if goes_to is None else [f"sqlite:///{tmp_path}/{goes_to}"])
    said = "added to the MLflow run 0123 of mine" in capsys.readouterr().out
    assert said == (goes_to is not None)


def test_the_published_protocol(
    tiny_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Vorticity on 64 x 64 points; of the 200 published trajectories there are two."""
    dimensions = "width: 16, depth: 1, heads: 2, out_layer_dim: 4, grid: 128, patch: 16"
    model = load_run(
        "quickstart", [f"model={{size: debug, {dimensions}, channels: 1, history: 10}}"]
    ).model
    network = family_of(model).network(model, KEEP_ALL, "float32")
    save_model(tmp_path / "model.safetensors", model, network.state_dict())
    fields = np.random.default_rng(0).normal(size=(2, 22, 1, 64, 64))
    info = DatasetInfo(
        name="ns2d_fno_1e-5",
        equation="none",
        channels=("vorticity",),
        scored=(True,),
        spatial_axes=("x", "y"),
        grid=(64, 64),
        domain_length=(1.0, 1.0),
        frame_interval=1.0,
        boundary="periodic",
        origin="imported",
        source="a test",
    )
    with StoreWriter(tmp_path / "data", info) as writer:
        writer.append("test", fields)
    command = [str(tmp_path / "model.safetensors"), "--data", str(tmp_path / "data")]
    capsys.readouterr()
    assert main([*command, "--metric", "paper", "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["DPOT-Ti,", "published", "0.0976"]
    assert "by the published protocol, 2 of 200 published trajectories; 64 x 64 points" in lines[4]
    scores = read_scores(tmp_path / "out" / SCORES_FILE)[""]
    details = scores.details["ns2d_fno_1e-5"]
    assert len(details.model["rel_l2"].lead_times) == 10
    known = torch.from_numpy(fields[:, :20, 0]).float()
    seen = torch.nn.functional.interpolate(known, size=[128, 128], mode="bilinear")
    seen = seen[..., ::2, ::2]
    error = (seen[:, 9:10] - seen[:, 10:]).flatten(1).norm(dim=1) / seen[:, 10:].flatten(1).norm(
        dim=1
    )
    assert details.persistence["rel_l2"].rollout == pytest.approx(error.mean().item(), rel=1e-6)
    again = [*command, "--metric", "paper", "--out", str(tmp_path / "again")]
    assert main([*again, "data.shapes=native", "data.mask_points=true"]) == 0
    assert read_scores(tmp_path / "again" / SCORES_FILE)[""].details == scores.details
    assert main([*again, "evaluation.trajectories=1"]) == 0
    assert "protocol, 1 of 200 published trajectories; 64 x 64" in capsys.readouterr().out
    assert main([*again, "evaluation.rollout_frames=3"]) == 2
    assert "--metric paper forecasts the published number of frames: " in capsys.readouterr().err


@pytest.mark.distributed
def test_ranks_of_a_launcher_share_the_trajectories(
    two: tuple[Path, Path], tiny_yaml: Path, tmp_path: Path
) -> None:
    data = ["--data", str(tiny_yaml.parent / "data"), "evaluation.batch=1"]
    assert main([str(two[0]), *data, "--out", str(tmp_path / "alone")]) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "dpot_scale.evaluate", str(two[0])]
    ended = subprocess.run(
        [*command, *data, "--out", str(tmp_path / "ranks")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("held-out rel_l2") == 1, "one rank speaks"
    alone = read_scores(tmp_path / "alone" / SCORES_FILE)[""].details
    found = read_scores(tmp_path / "ranks" / SCORES_FILE)[""].details
    for name, expected in alone.items():
        for metric in METRICS:
            one, other = found[name].model[metric], expected.model[metric]
            assert one.rollout == pytest.approx(other.rollout, rel=1e-6), (name, metric)
            assert one.lead_times == pytest.approx(other.lead_times, rel=1e-6), (name, metric)
