"""Weights that lie in no run are scored on what they were trained on, and never on other data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.load import dump, load_run
from dpot_scale.data.channels import TrainingData, training_data
from dpot_scale.data.datasets import open_datasets
from dpot_scale.evaluate import main
from dpot_scale.evaluation.own_data import likeliest_root, other_data
from dpot_scale.evaluation.scores import SCORES_FILE, read_scores
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.prepare import main as prepare
from dpot_scale.serving.registry import register

RELEASED = Path(__file__).parents[1] / "golden" / "official_format_small.pth"
WHICH = "say with --data DIR, or --data DIR --datasets NAME..., what to score"


def trained_on(*names: str, frame_interval: float = 0.1) -> TrainingData:
    channels = {"names": ["u", "v"], "scored": [True, True], "mean": [0, 0], "std": [1, 1]}
    channels["frame_interval"] = frame_interval  # type: ignore[assignment]
    return TrainingData.model_validate({"datasets": dict.fromkeys(names, channels)})


@pytest.fixture
def here(tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a dataset `flow` in `data`."""
    monkeypatch.chdir(tmp_path)
    fields = np.random.default_rng(0).normal(size=(2, 9, 16, 16, 2)).astype(np.float32)
    np.save(tmp_path / "flow.npy", fields)
    layout = ["--layout", "NTXYC", "--channels", "u,v", "--dt", "0.1"]
    assert prepare(["import", "flow.npy", *layout]) == 0
    return tmp_path


def save(path: Path, tiny_yaml: Path, data: TrainingData | None) -> str:
    """Write the weights of a small model; return the path as it is typed."""
    config = load_run(str(tiny_yaml))
    torch.manual_seed(0)
    network = family_of(config.model).network(config.model, KEEP_ALL, "float32")
    save_model(path, config.model, network.state_dict(), data)
    return str(path)


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence, after which nothing was made."""
    (sentence,) = capsys.readouterr().err.splitlines()
    assert not Path("evaluation").exists()
    assert not Path("data/quickstart").exists()
    return sentence.removeprefix("error: ")


def test_weights_are_scored_on_the_data_that_they_name(here: Path, tiny_yaml: Path) -> None:
    file = save(here / "model.safetensors", tiny_yaml, trained_on("flow"))
    for source in (file, "models:/flow/1"):
        if source != file:
            assert register(Path(file), "flow", "sqlite:///mlflow.db") == "1"
        # Beside them stand released weights, which name no data.
        assert main([source, str(RELEASED), "--out", "out"]) == 2  # for it has other channels
        assert main([source, "--out", "out"]) == 0
        (scores,) = read_scores(here / "out" / SCORES_FILE).values()
        assert list(scores.details) == ["flow"]
    assert not (here / "data" / "quickstart").exists()


def test_generated_data_are_found_where_the_default_makes_them(here: Path, tiny_yaml: Path) -> None:
    place = here / "data" / "quickstart"
    config = load_run(str(tiny_yaml), [f"data.root={place}", "data.weights={swe_coarse: 1}"])
    stores = open_datasets(config.data, config.model, progress=lambda _: None)
    data = training_data(stores, config.data)
    file = save(here / "model.safetensors", tiny_yaml, data)
    assert main([file, "--out", "out"]) == 0
    assert list(read_scores(here / "out" / SCORES_FILE)[""].details) == ["swe_coarse"]
    assert main([file, "--out", "named", "--datasets", "flow"]) == 0
    assert list(read_scores(here / "named" / SCORES_FILE)[""].details) == ["flow"]


def test_data_that_are_not_there_are_named(
    here: Path, tiny_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(here / "model.safetensors", tiny_yaml, trained_on("flow", "smoke", "ice"))
    capsys.readouterr()
    assert main([file]) == 2
    assert error(capsys) == (
        f"datasets 'smoke', 'ice', which {file} was trained on, are not under {here}/data or "
        f"{here}/data/quickstart: say with --data DIR where they are, or what else to score"
    )
    assert main([file, "data.root=other"]) == 2
    assert f"'flow', 'smoke', 'ice', which {file} was trained on, are not under {here}/other: " in (
        error(capsys)
    )
    one = save(here / "one.safetensors", tiny_yaml, trained_on("smoke"))
    assert main([one]) == 2
    assert error(capsys).startswith(f"dataset 'smoke', which {one} was trained on, is not under ")
    assert main([file, "--data", "data", "--out", "out"]) == 0, "data that the command names"


def test_other_data_of_the_same_name_are_refused(
    here: Path, tiny_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(here / "a.safetensors", tiny_yaml, trained_on("flow", frame_interval=0.2))
    capsys.readouterr()
    assert main([file]) == 2
    assert error(capsys) == (
        f"dataset flow under {here}/data is not the one that {file} was trained on (time from "
        "frame to frame then: 0.2, now: 0.1): say with --data DIR what to score"
    )
    fields = trained_on("flow").model_dump()
    fields["datasets"]["flow"]["names"] = ["u", "p"]
    other = save(here / "b.safetensors", tiny_yaml, TrainingData.model_validate(fields))
    right = save(here / "c.safetensors", tiny_yaml, trained_on("flow"))
    assert main([right, other]) == 2
    said = f"the one that {other} was trained on (channels then: u, p, now: u, v): say with --data"
    assert said in error(capsys)


def test_sources_of_other_data_and_of_none(
    here: Path, tiny_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = save(here / "one.safetensors", tiny_yaml, trained_on("flow"))
    two = save(here / "two.safetensors", tiny_yaml, trained_on("smoke"))
    old = save(here / "old.safetensors", tiny_yaml, None)
    capsys.readouterr()
    assert main([one, two]) == 2
    assert error(capsys) == f"{one} was trained on flow, and {two} on smoke: {WHICH} all on"
    both = save(here / "both.safetensors", tiny_yaml, trained_on("smoke", "flow"))
    assert main([both, one]) == 2
    assert error(capsys) == (
        f"{both} was trained on smoke, flow, and {one} on flow: add --datasets flow, which all "
        f"were trained on, or {WHICH} all on"
    )
    assert main([both, one, "--datasets", "flow", "--out", "out"]) == 0
    assert main([one, two, "--data", "data", "--out", "out"]) == 0
    assert main([one, old, "--out", "with_old"]) == 0
    capsys.readouterr()
    for sources in ([str(RELEASED)], [old], [old, str(RELEASED)]):
        assert main(sources) == 2
        said = f"what {' and '.join(sources)} learned from is not written in the weights: {WHICH}"
        assert error(capsys) == said
    assert main([old, "data.weights={smoke: 1}"]) == 2
    assert error(capsys).startswith("dataset 'smoke' is missing under ")


def test_a_run_decides_and_what_learned_from_other_data_is_said(
    here: Path, tiny_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "mine"
    run.mkdir()
    words = ["data.weights={flow: 1}", "data.suite=null", f"data.root={here}/data"]
    (run / "config.yaml").write_text(dump(load_run(str(tiny_yaml), words)))
    weights = save(run / "model.safetensors", tiny_yaml, trained_on("flow"))
    two = save(here / "two.safetensors", tiny_yaml, trained_on("smoke"))
    capsys.readouterr()
    assert main([weights, two, "--out", "out"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (f"scored on flow, the data of {run}/config.yaml; two was trained on smoke")
    assert main([weights, "--out", "alone"]) == 0
    assert "scored on" not in capsys.readouterr().out


def test_weights_say_on_which_grid_they_saw_their_data(here: Path, tiny_yaml: Path) -> None:
    np.save(here / "wide.npy", np.zeros((2, 9, 16, 24, 2), np.float32) + np.arange(24)[:, None])
    assert prepare(["import", "wide.npy", "--layout", "NTXYC", "--channels", "u,v"]) == 0

    def seen(*words: str) -> list[tuple[int, ...]]:
        command = [*words, "--data", "data", "--datasets", "wide", "--out", "out"]
        assert main(command) == 0
        found = read_scores(here / "out" / SCORES_FILE).values()
        return [tuple(scores.details["wide"].seen_on) for scores in found]

    data = trained_on("flow")
    native = data.model_copy(update={"shapes": "native"})
    of_old = save(here / "old.safetensors", tiny_yaml, data)
    of_native = save(here / "native.safetensors", tiny_yaml, native)
    assert seen(of_native, of_old) == [(16, 24), (16, 16)]
    assert seen(of_native, "data.shapes=resize") == [(16, 16)]
    assert seen(of_old, "data.shapes=native") == [(16, 24)]
    run = here / "mine"
    run.mkdir()
    (run / "config.yaml").write_text(dump(load_run(str(tiny_yaml), ["data.shapes=native"])))
    of_run = save(run / "model.safetensors", tiny_yaml, data)
    assert seen(of_run) == [(16, 24)]
    assert seen(of_run, "data.shapes=resize") == [(16, 16)], "the command line decides"
    assert seen(of_run, "data.normalize=none") == [(16, 24)]


def test_fields_of_other_data_go_by_name(
    here: Path, tiny_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(here / "turned.npy", np.load(here / "flow.npy")[..., ::-1])
    assert prepare(["import", "turned.npy", "--layout", "NTXYC", "--channels", "v,u"]) == 0
    file = save(here / "model.safetensors", tiny_yaml, trained_on("flow"))
    assert main([file, "--data", "data", "--out", "out"]) == 0
    said = "model takes the fields of turned by name: v as channel 2, u as channel 1\n"
    assert said in capsys.readouterr().out
    details = read_scores(here / "out" / SCORES_FILE)[""].details
    flow, turned = (details[name].model["rel_l2"].fields for name in ("flow", "turned"))
    for field in ("u", "v"):
        assert turned[field].rollout == pytest.approx(flow[field].rollout, rel=1e-6)


def test_the_folder_that_holds_most_is_taken(here: Path) -> None:
    roots = [here / "absent", here / "data"]
    assert likeliest_root(roots, ["flow"]) == here / "data"
    assert likeliest_root(roots, ["smoke"]) == here / "absent"


def test_who_learned_from_other_data() -> None:
    trained = {"all": ("a", "b"), "one": ("a",), "unknown": ()}
    assert other_data(trained, ["a"]) == ""
    assert other_data(trained, ["a", "b"]) == "one was trained on a"
