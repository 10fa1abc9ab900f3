"""Weights of a run, a checkpoint or a file. Shards of several ranks: tests/engine/test_zero.py."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.checkpoints.weights import export, find, load_model, read, read_found
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.load import dump, load_run
from dpot_scale.config.places import CHECKPOINTS, RESULT_FILE, RUN_CONFIG, WEIGHTS
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.data.channels import Channels, TrainingData
from dpot_scale.engine.runtime import start_world
from dpot_scale.engine.state import StoredState
from dpot_scale.errors import CheckpointError
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.weights import main

SMALL = ["model.size=debug", "model.width=16", "model.depth=1", "model.heads=2", "model.grid=16"]

DATA = TrainingData(
    datasets={
        "flow": Channels(
            names=("u", "v"), scored=(True, True), mean=(1, 0), std=(2, 1), frame_interval=0.1
        )
    }
)


class Replicated:
    """Saves what stage 0 does: each rank has everything."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def snapshot(self) -> None:
        """Only this engine reaches its state."""

    def load_state(self, stored: StoredState) -> None:
        raise NotImplementedError

    def save_shards(self, folder: Path) -> None:
        (folder / "shards").mkdir()
        content = {"module": self.state, "param_shapes": None}
        torch.save(content, folder / "shards" / "mp_rank_00_model_states.pt")

    def load_shards(self, folder: Path) -> None:
        raise NotImplementedError


def model(seed: int) -> DPOT:
    torch.manual_seed(seed)
    return DPOT(load_run("quickstart", SMALL).model)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of an unfinished run whose checkpoints at steps 1 and 2 hold known weights."""
    config = load_run("quickstart", [*SMALL, f"output={tmp_path}", "name=run"])
    store = CheckpointStore(
        config.directory / CHECKPOINTS,
        config=CheckpointConfig(),
        identity="hash",
        world=start_world(),
        data=DATA,
    )
    for step in (1, 2):
        store.save(Replicated(model(step).state_dict()), TrainState(step=step))
    (config.directory / RUN_CONFIG).write_text(dump(config))
    return config.directory


def assert_is(found: dict[str, Tensor], seed: int) -> None:
    expected = model(seed).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_run_stands_for_its_newest_intact_checkpoint(run: Path) -> None:
    assert_is(read(run).state, 2)
    assert_is(read(run / CHECKPOINTS / "step_000001").state, 1)
    (run / CHECKPOINTS / "step_000002" / "shards" / "mp_rank_00_model_states.pt").write_text("x")
    assert_is(read(run).state, 1)
    with pytest.raises(CheckpointError, match=r"step_000002 is damaged \(shards/mp_rank_00"):
        find(run / CHECKPOINTS / "step_000002")


def test_a_finished_run_stands_for_its_export(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = model(3)
    save_model(run / WEIGHTS, trained.config, trained.state_dict())
    assert_is(read(run).state, 2)
    (run / RESULT_FILE).touch()
    assert_is(read(run).state, 3)
    assert_is(read(run / WEIGHTS).state, 3)
    assert main(["export", str(run)]) == 0
    assert capsys.readouterr().out == f"{run} has ended: its weights are in {run / WEIGHTS}\n"
    copy = run.parent / "copy.safetensors"
    assert main(["export", str(run), "--out", str(copy)]) == 0
    assert_is(load_model(copy).state_dict(), 3)


def test_export_writes_what_a_finished_run_leaves(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run)]) == 0
    written = run / "model_step_000002.safetensors"
    assert capsys.readouterr().out == f"wrote {written}\n"
    assert_is(load_model(written).state_dict(), 2)
    again = run.parent / "again.safetensors"
    assert main(["export", str(run / CHECKPOINTS / "step_000002"), "--out", str(again)]) == 0
    assert again.read_bytes() == written.read_bytes()
    assert read(written).data == read(run).data == DATA


def test_an_export_to_a_full_disk_is_one_sentence_and_leaves_nothing(
    run: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "rest").write_bytes(bytes(2**20 - 8 * 4096))
    out = small_disk / "out.safetensors"
    out.write_text("of before")
    assert main(["export", str(run), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"error: cannot write {out}: " in said
    assert f"bytes are free in {small_disk}: make room there and start again" in said
    assert sorted(path.name for path in small_disk.iterdir()) == [out.name, "rest"]
    assert out.read_text() == "of before"


def test_what_holds_no_weights_is_one_sentence(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint; give the folder of a run"):
        find(run.parent)
    moved = run.parent / "step_000001"
    shutil.copytree(run / CHECKPOINTS / "step_000001", moved)
    with pytest.raises(CheckpointError, match=r"does not lie in the folder of its run"):
        export(moved)  # as one of the first version
    other = load_run(str(run / RUN_CONFIG), ["model.depth=2"])
    (run / RUN_CONFIG).write_text(dump(other))
    with pytest.raises(CheckpointError, match=r"not hold exactly the keys .* missing: blocks\.1"):
        export(find(run))


def test_a_checkpoint_outside_of_its_run_is_opened(tmp_path: Path) -> None:
    network = model(1)
    store = CheckpointStore(
        tmp_path,
        config=CheckpointConfig(),
        identity="hash",
        world=start_world(),
        model=network.config.dimensions(),
    )
    store.save(Replicated(network.state_dict()), TrainState(step=1))
    moved = (tmp_path / "step_000001").rename(tmp_path / "best")
    weights = read(moved)
    assert weights.model.dimensions() == network.config.dimensions()
    assert_is(weights.state, 1)
    assert export(moved) == tmp_path / "model_best.safetensors"
    assert_is(load_model(tmp_path / "model_best.safetensors").state_dict(), 1)


def test_shards_that_are_none_are_one_sentence(run: Path) -> None:
    checkpoint = run / CHECKPOINTS / "step_000002"
    shard = checkpoint / "shards" / "mp_rank_00_model_states.pt"
    torch.save({"module": [1, 2]}, shard)
    with pytest.raises(CheckpointError, match=r"shards does not hold the files of a checkpoint"):
        read_found(checkpoint)
