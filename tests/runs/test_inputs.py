"""What a run was trained on is recorded and compared; ranks that differ stop."""

import json
import re
import socket
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dpot_scale.config.data import GeneratedDataset, SuiteConfig
from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.data.generation.suite import generate_suite
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.strategy import FOLDER
from dpot_scale.errors import CheckpointError, UserError
from dpot_scale.runs.inputs import (
    INPUTS,
    inputs_of,
    require_agreement_of_ranks,
    require_same_inputs,
)

HERE = Path(__file__)


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


def stores(root: Path, **changes: object) -> dict[str, DatasetStore]:
    values = {"equation": "reaction_diffusion", "train": 2, "test": 1, "grid": 8, "frames": 3}
    recipe = GeneratedDataset.model_validate(values | {"frame_interval": 0.5} | changes)
    suite = SuiteConfig(name="suite", datasets={"dr": recipe})
    generate_suite(suite, root, progress=lambda _: None)
    return {"dr": open_store(root, "dr")}


def run_with(deepspeed: Path | str) -> RunConfig:
    return load_run("quickstart", [f"engine.deepspeed={deepspeed}"])


def test_data_made_anew_are_the_same_and_of_another_recipe_are_not(tmp_path: Path) -> None:
    run = run_with("zero3_fp32")
    first = inputs_of(run, stores(tmp_path / "a"))
    assert first.keys() == {"dataset dr"}, "a strategy of ours is part of the code"
    assert inputs_of(run, stores(tmp_path / "b")) == first
    assert inputs_of(run, stores(tmp_path / "c", frame_interval=0.4)) != first


def test_imported_data_are_named_by_their_content(tmp_path: Path) -> None:
    run = run_with("zero3_fp32")
    store = stores(tmp_path)["dr"]
    index = tmp_path / "dr" / "index.json"
    content = json.loads(index.read_text())
    content["info"] |= {"origin": "imported", "source": "a file"}
    index.write_text(json.dumps(content))
    first = inputs_of(run, {"dr": open_store(tmp_path, "dr")})
    content["splits"]["train"][0]["sha256"] = "0" * 64
    index.write_text(json.dumps(content))
    assert inputs_of(run, {"dr": open_store(tmp_path, "dr")}) != first
    assert inputs_of(run, {"dr": store}) != first


def test_another_content_of_a_json_is_refused(tmp_path: Path, world: World) -> None:
    json_file, folder = tmp_path / "mine.json", tmp_path / "run"
    strategy = json.loads((FOLDER / "zero3_fp32.json").read_text())
    json_file.write_text(json.dumps(strategy))
    run = run_with(json_file)
    require_same_inputs(folder, inputs_of(run, {}), world)
    json_file.write_text(json.dumps(strategy, indent=4))
    require_same_inputs(folder, inputs_of(run, {}), world)
    strategy["zero_optimization"]["stage"] = 2
    json_file.write_text(json.dumps(strategy))
    sentence = (
        r"run was begun with another engine.deepspeed zero_optimization.stage \(3, now 2\): restore"
    )
    with pytest.raises(CheckpointError, match=sentence):
        require_same_inputs(folder, inputs_of(run, {}), world)


@pytest.mark.parametrize("record", [None, "", "[1]", "[" * 10**5])
def test_a_run_that_does_not_say_what_it_was_trained_on_goes_on(
    record: str | None, tmp_path: Path, world: World
) -> None:
    if record is not None:
        (tmp_path / INPUTS).write_text(record)
    require_same_inputs(tmp_path, {"dataset a": "1"}, world)
    assert json.loads((tmp_path / INPUTS).read_text()) == {"dataset a": "1"}


def disagreement(world: World, output: str, **inputs: str) -> str:
    """What is said of ranks that do not share a folder, or have other inputs."""
    run = run_with("zero3_fp32").model_copy(update={"name": "test", "output": Path(output)})
    try:
        with mock.patch("dpot_scale.runs.inputs.PATIENCE_SECONDS", 1):
            require_agreement_of_ranks(run, inputs, world)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def in_a_shared_folder(world: World, output: str) -> str:
    return disagreement(world, output, a="1")


def each_in_a_folder_of_its_own(world: World, output: str) -> str:
    return disagreement(world, f"{output}/{world.rank}")


def with_other_data(world: World, output: str) -> str:
    return disagreement(world, output, **{"dataset a": str(world.rank)})


def with_data_on_one_rank(world: World, output: str) -> str:
    return disagreement(world, output, **({"dataset a": "1"} if world.rank else {}))


@pytest.mark.distributed
def test_ranks_that_agree_start(tmp_path: Path, ranks: Any) -> None:
    assert ranks.run(HERE, "in_a_shared_folder", str(tmp_path)) == ""


@pytest.mark.distributed
def test_ranks_without_a_shared_folder_stop_before_the_first_step(
    tmp_path: Path, ranks: Any
) -> None:
    host = socket.gethostname()
    assert re.fullmatch(
        rf"ConfigError: rank 1 on {host} does not see in \S+/1/test what rank 0 wrote there, so "
        "that a checkpoint would lack its part: set `output` to a folder that all machines share",
        ranks.run(HERE, "each_in_a_folder_of_its_own", str(tmp_path)),
    )


@pytest.mark.distributed
def test_ranks_with_other_data_stop_before_the_first_step(tmp_path: Path, ranks: Any) -> None:
    host = socket.gethostname()
    mend = "give every machine the same files, or a data.root that all share"
    assert ranks.run(HERE, "with_other_data", str(tmp_path)) == (
        f"ConfigError: rank 1 on {host} has another dataset a (1) than rank 0 on {host} (0): {mend}"
    )
    assert "has another dataset a (1) than rank 0 on" in ranks.run(
        HERE, "with_data_on_one_rank", str(tmp_path)
    )
