"""The training entry, in this process: what it says, refuses and does not do twice."""

import io
import json
import shutil
from contextlib import AbstractContextManager, redirect_stdout
from math import isnan
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
import yaml

from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.checkpoints.weights import load_model, read
from dpot_scale.config import strategy
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, MARKER, RESULT_FILE
from dpot_scale.config.strategy import FOLDER
from dpot_scale.runs import resolved
from dpot_scale.runs.resolved import identify
from dpot_scale.runs.result import TrainingResult, read_result
from dpot_scale.runs.run import run_training
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.train import main


@pytest.fixture
def short(tiny_yaml: Path, tmp_path: Path) -> list[str]:
    """The command line of a run of four steps."""
    return command(tiny_yaml, tmp_path)


@pytest.fixture(scope="module")
def once(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where that run has been finished, and what it printed.

    Its sharding lies in a file of its own, which is opened and completed once.
    """
    output = tmp_path_factory.mktemp("runs")
    sharding = shutil.copy(FOLDER / "zero3_fp32.json", output / "mine.json")
    printed = io.StringIO()
    with (
        redirect_stdout(printed),
        counted(strategy, "_read") as read_file,
        counted(resolved, "effective_deepspeed_config") as completed,
    ):
        assert main([*command(tiny_yaml, output), f"engine.deepspeed={sharding}"]) == 0
    # The strategy of a run that names none is read too, once in a process: what differs from it
    # identifies a run.
    assert [call.args for call in read_file.call_args_list].count((sharding,)) == 1
    assert {call.args[0].parent for call in read_file.call_args_list} <= {output, FOLDER}
    assert completed.call_count == 1
    return output / "short", printed.getvalue()


def counted(module: ModuleType, function: str) -> AbstractContextManager[Mock]:
    """Count the calls of a function while it does what it does."""
    return patch.object(module, function, wraps=getattr(module, function))


@pytest.fixture
def trained(short: list[str], once: tuple[Path, str], tmp_path: Path) -> list[str]:
    """The command line of that run, which is finished already."""
    shutil.copytree(once[0], tmp_path / "short")
    return short


def command(config: Path, output: Path) -> list[str]:
    return ["--config", str(config), f"output={output}", "name=short", "windows=16"]


def mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one sentence of a command that is refused."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("engine.deepspeed=zero9", "zero9"),
        ("model.heads=3", "model.heads=3"),
        ("batch.micro_batch=3", "not a multiple"),
        ("engine.deepspeed=zero3_fp16", "fp16"),
    ],
)
def test_a_mistake_is_found_before_data_are_generated(
    override: str,
    sentence: str,
    short: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if override.endswith("fp16") and torch.cuda.is_available():
        pytest.skip("a GPU computes in fp16")
    assert sentence in mistake([*short, f"data.root={tmp_path}/data", override], capsys)
    assert not (tmp_path / "data").exists()


def test_a_parameter_that_no_dataset_keeps_is_no_condition(
    short: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = ["model.conditioning=[dt,parameters]", "model.parameters=[radius,mass]"]
    said = mistake([*short, *conditions], capsys)
    assert "no dataset keeps a parameter 'mass' of its trajectories (they keep dr_pdb_" in said
    assert "radius" in said


def test_a_printed_config_is_the_config(
    short: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*short, "--print-config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_run(str(printed)) == load_run(short[1], short[2:])
    assert not (tmp_path / "short").exists()


def test_bare_it_is_the_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "quickstart"


def test_what_the_launcher_adds_is_no_override(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--local_rank=1", "seed=7", "--print-config", "windows=32"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["seed"], printed["windows"]) == (7, 32)


def test_other_ranks_print_no_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["--print-config"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.sise=S"], "unknown key 'model.sise' (did you mean 'model.size'?)"),
        (["windows=17"], "windows=17 is not a multiple of batch.global_batch=4"),
        (["model.channels=1"], "has 2 channels; model.channels=1 is too few"),
        (["model.history=9"], "stores 9 test frames, but model.history=9"),
        (["model.heads=3"], "model.heads=3: must be a divisor of width=16"),
        (["batch.micro_batch=3"], "batch.global_batch=4 is not a multiple of"),
        (["evaluation.rollout_frames=6"], "stores 9 test frames"),
        (["data.suite=null", "data.root=/absent"], "is missing under /absent"),
        (["engine.deepspeed=zero4"], "engine.deepspeed='zero4' is not in deepspeed_configs/"),
        (["start.source=absent.pth"], "absent.pth does not exist"),
        (["output=/dev/null"], "cannot write to /dev/null/short: Not a directory"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_run(
    overrides: list[str],
    message: str,
    short: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in mistake([*short, *overrides], capsys)
    assert not list(tmp_path.rglob("config.yaml"))


def result_of(directory: Path) -> TrainingResult:
    result = read_result(directory)
    assert result is not None
    return result


def test_the_header_says_what_will_happen(once: tuple[Path, str]) -> None:
    directory, printed = once
    header = dict(line.split("  ", 1) for line in printed.splitlines() if "  " in line)
    parameters = result_of(directory).parameters
    assert header["run"].strip() == f"short  in {directory}"
    assert header["model"].strip().startswith(f"{parameters:,} parameters, ")
    assert header["batch"].strip() == "4 windows = 2 per rank x 1 ranks x 2 accumulated"
    assert header["length"].strip() == "16 windows = 4 steps"
    assert header["engine"].startswith("mine.json on 1 x ")
    assert header["data"].strip() == "dr_pdb_generated x 2, swe_pdb_generated x 1, swe_coarse x 1"


def test_a_finished_run_only_shows_its_scores(
    trained: list[str], once: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes_no_number = ["tracking.log_every=2", "checkpoint.every=1"]
    for overrides in ([], changes_no_number):
        assert main([*trained, *overrides]) == 0
        table = capsys.readouterr().out.rpartition("weights, figures")[0]
        assert table.startswith("held-out rel_l2  ")
        assert table in once[1]
    for name in (SPOOL, "config.yaml", RESULT_FILE):
        assert (tmp_path / "short" / name).read_bytes() == (once[0] / name).read_bytes()


def test_a_finished_run_sends_what_its_archive_did_not_take(
    trained: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    archive = tmp_path / "archive"
    archive.write_text("a file in its place")
    again = [*trained, f"checkpoint.archive=file://{archive}"]
    assert main(again) == 0
    assert f"checkpoint.archive=file://{archive} is not up to date" in caplog.text
    assert "weights, figures and metrics" in capsys.readouterr().out
    archive.unlink()
    assert main(again) == 0
    sent = f"sent step_000004, the newest records of {tmp_path}/short to checkpoint.archive\n"
    assert capsys.readouterr().out.startswith(sent)
    marker = Path("short") / CHECKPOINTS / "step_000004" / MARKER
    assert (archive / "short/step_000004" / MARKER).read_bytes() == (tmp_path / marker).read_bytes()
    assert main(again) == 0
    assert "sent" not in capsys.readouterr().out


def test_a_finished_run_of_another_config_is_refused(
    trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds a finished run that was made with another config" in mistake(
        [*trained, "seed=1"], capsys
    )


def test_a_crash_between_the_last_checkpoint_and_the_result(
    trained: list[str], tmp_path: Path
) -> None:
    config = load_run(trained[1], trained[2:])
    expected = result_of(config.directory)
    weights = read(config.directory / "model.safetensors").state
    (config.directory / RESULT_FILE).unlink()
    (config.directory / "model.safetensors").unlink()
    shutil.rmtree(config.directory / "figures")
    # As if the last evaluation had not been recorded either.
    spool = config.directory / SPOOL
    lines = [line for line in spool.read_text().splitlines() if "eval/mean" not in line]
    spool.write_text("\n".join(lines) + "\n")
    found = run_training(identify(config))
    volatile = {"seconds", "peak_memory_gib", "forward_seconds"}
    assert found.model_dump(exclude=volatile) == expected.model_dump(exclude=volatile)
    again = read(config.directory / "model.safetensors").state
    torch.testing.assert_close(again, weights, rtol=0, atol=0)
    assert (config.directory / "figures" / "error_growth.png").is_file()
    recorded = read_metrics(spool)["eval/mean/rel_l2"]
    assert recorded == {4: pytest.approx(found.mean_rel_l2)}


def test_another_config_is_refused_and_leaves_the_unfinished_run_as_it_was(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short" / RESULT_FILE).unlink()
    before = (tmp_path / "short" / "config.yaml").read_text()
    assert "was made with another config" in mistake([*trained, "optim.lr=0.1"], capsys)
    assert (tmp_path / "short" / "config.yaml").read_text() == before


def test_a_valid_split_is_scored_during_training_and_both_at_its_end(
    short: list[str], tiny_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = "{equation: shallow_water, train: 4, valid: 2, test: 2, grid: 8, frames: 9, "
    (tmp_path / "suite.yaml").write_text(
        f"name: s\ndatasets:\n  swe_valid: {recipe}frame_interval: 0.2}}\n"
        f"  swe_coarse: {recipe.replace(' valid: 2,', '')}frame_interval: 0.2}}\n"
    )
    data = [f"data.root={tmp_path / 'data'}", f"data.suite={tmp_path / 'suite.yaml'}"]
    mixture = "data.weights={swe_valid: 1, swe_coarse: 1}"
    assert main([*short, *data, mixture, "evaluation.every=2"]) == 0
    printed = capsys.readouterr().out
    assert "4/4  valid rel_l2  swe_valid 0." in printed
    result = result_of(tmp_path / "short")
    assert list(result.evaluation) == ["swe_valid", "swe_coarse"]
    assert list(result.valid) == ["swe_valid"]
    curves = read_metrics(tmp_path / "short" / SPOOL)
    assert (
        list(curves["valid/swe_valid/rel_l2"]) == list(curves["eval/swe_coarse/rel_l2"]) == [2, 4]
    )
    assert list(curves["eval/swe_valid/rel_l2"]) == list(curves["eval/mean/rel_l2"]) == [4]
    assert curves["valid/swe_valid/rel_l2"][4] == result.valid["swe_valid"].rel_l2


def test_a_run_starts_from_given_weights(trained: list[str], tmp_path: Path) -> None:
    """With steps too small to see, it ends where it started."""
    first = tmp_path / "short" / "model.safetensors"
    still = [f"start.source={first}", "name=still", "optim.lr=1e-12"]
    assert main([*trained, *still]) == 0
    expected, found = load_model(first), load_model(tmp_path / "still" / "model.safetensors")
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=1e-9)


def test_a_run_starts_from_the_weights_of_another_shape(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an adapter, killed and resumed; its export is a plain model with the blocks merged."""
    first = tmp_path / "short"
    words = ["model.history=3", "model.grid=24", "model.channels=3", "start.absent=draw"]
    words += ["start.adapter={rank: 2}", "start.components={patch_embed: {lr: 2}, output: {lr: 1}}"]
    start = [*trained, f"start.source={first}", *words, "checkpoint.every=2"]
    assert main([*start, "name=other"]) == 0
    printed = capsys.readouterr().out
    for said in (
        "frozen: pos_embed, time_agg, blocks, head, statistics",
        "4 to 3 frames of history",
        "4 x 4 to 6 x 6 latent points",
        "fields by name",
        "x 2",
    ):
        assert said in printed
    other = read(tmp_path / "other").state
    before = read(first).state
    torch.testing.assert_close(other["cls_head.4.weight"], before["cls_head.4.weight"])
    matrix = "blocks.0.mlp.0.weight"
    assert not torch.equal(other[matrix], before[matrix])
    change = (other[matrix] - before[matrix])[:, :, 0, 0]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2
    newest = tmp_path / "other" / "checkpoints" / "step_000004"
    torch.testing.assert_close(read(newest).state, other, rtol=0, atol=0)
    _undo_after(tmp_path / "other", step=2)
    shutil.rmtree(first)  # which a run that goes on needs no more
    assert main([*start, "name=other"]) == 0
    torch.testing.assert_close(read(tmp_path / "other").state, other, rtol=0, atol=0)


def test_a_temporal_model_starts_one_of_a_steady_problem(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Darcy: one frame of coefficients goes in, and the solution comes out."""
    recipe = "{equation: darcy, train: 6, test: 2, grid: 16, frames: 2, frame_interval: 1}"
    (tmp_path / "suite.yaml").write_text(f"name: s\ndatasets:\n  steady: {recipe}\n")
    data = [f"data.root={tmp_path / 'data'}", f"data.suite={tmp_path / 'suite.yaml'}"]
    data += ["data.weights={steady: 1}", "data.trajectories=4", "model.history=1"]
    steady = [*trained, *data, f"start.source={tmp_path / 'short'}", "name=steady"]
    freeze = "start.components={blocks: freeze, head: freeze}"
    assert main([*steady, freeze]) == 0
    printed = capsys.readouterr().out
    assert "4 to 1 frames of history" in printed
    assert "frozen: blocks, head" in printed
    before, after = (read(tmp_path / name).state for name in ("short", "steady"))
    for name, value in after.items():
        if name.startswith(("blocks.", "cls_head.")):
            assert torch.equal(value, before[name]), name


def _undo_after(directory: Path, step: int) -> None:
    """Leave a run as if it had been killed after a step."""
    for name in (RESULT_FILE, "model.safetensors"):
        (directory / name).unlink()
    shutil.rmtree(directory / "figures")
    for checkpoint in (directory / "checkpoints").glob("step_*"):
        if checkpoint.name > f"step_{step:06d}":
            shutil.rmtree(checkpoint)


def test_what_deepspeed_got_is_kept(once: tuple[Path, str]) -> None:
    kept = json.loads((once[0] / "deepspeed.json").read_text())
    assert kept["train_batch_size"] == 4
    assert kept["zero_optimization"]["stage"] == 3
    assert "auto" not in json.dumps(kept)


def test_weights_of_another_model_name_every_override_at_once(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "short" / "model.safetensors"
    other = [f"start.source={first}", "name=other", "model.depth=1", "model.normalize=false"]
    said = mistake([*trained, *other], capsys)
    assert said == (
        "error: the config says model.depth=1, model.normalize=false, but the weights need: "
        "model.depth=2 model.normalize=true; or start.absent=draw starts from them as it is"
    )
    # Modes decide the shape of no weight.
    assert main([*trained, f"initialize_from={first}", "name=fewer", "model.modes=2"]) == 0


def test_a_record_that_is_removed_meanwhile_ends_no_training(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_run(trained[1], [*trained[2:], "name=removed", "checkpoint.every=1"])
    save = CheckpointStore.save

    def save_and_remove(store: CheckpointStore, *args: Any) -> None:
        save(store, *args)
        (config.directory / SPOOL).unlink(missing_ok=True)

    monkeypatch.setattr(CheckpointStore, "save", save_and_remove)
    found = run_training(identify(config))
    assert found.steps == config.steps
    assert isnan(found.final_train_loss)
    assert read_result(config.directory) is not None


def test_a_batch_that_no_machine_has_memory_for_is_one_sentence(
    tiny_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = 10**11  # 400 TB, more than there are addresses
    batch = [f"batch={{global_batch: {windows}, micro_batch: {windows}}}", f"windows={windows}"]
    assert main(["--config", str(tiny_yaml), "name=large", *batch]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: run large ran out of memory (")
    assert "set batch.micro_batch to a smaller number or auto" in said
