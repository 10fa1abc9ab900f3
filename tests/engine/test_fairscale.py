"""The second engine does all that a run needs. It computes the same: tests/engine/test_zero.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dpot_scale.checkpoints.weights import read
from dpot_scale.config.identity import Contents, identity
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.shards import MODEL_FILE, SHARDS, fairscale_file
from dpot_scale.engine.start import start_engine
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.runs.result import read_result

OTHER = ["engine.kind=fairscale", "engine.deepspeed=zero0_fp32"]


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["engine.kind=fairscale"], r"zero3_bf16 asks for more: add engine\.deepspeed=zero0_fp32"),
        ([*OTHER, "engine.compile=true"], "kind=fairscale does not compile"),
        (
            [*OTHER, "engine.recompute_backend=fairscale"],
            "recomputes with torch alone: set engine.recompute_backend=torch",
        ),
    ],
)
def test_what_it_cannot_do_is_one_sentence(
    overrides: list[str], sentence: str, tiny_yaml: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_run(str(tiny_yaml), ["engine.deepspeed=zero3_bf16", *overrides])


def test_it_is_the_same_run(tiny_yaml: Path) -> None:
    mine = load_run(str(tiny_yaml), ["engine.deepspeed=zero0_fp32"])
    contents = Contents(datasets={})
    assert identity(load_run(str(tiny_yaml), OTHER), contents) == identity(mine, contents)


def test_a_run_trains_is_evaluated_saved_and_exported(start: Callable[..., Any]) -> None:
    ended = start("fairscale", *OTHER, "checkpoint.every=5").ended()
    assert ended.code == 0, ended.err
    assert "fairscale in fp32 on 1 x cpu" in ended.out
    result = read_result(ended.directory)
    assert result is not None
    assert result.evaluation
    exported = read(ended.directory).state
    in_checkpoint = read(max((ended.directory / CHECKPOINTS).glob("step_*"))).state
    assert exported.keys() == in_checkpoint.keys()
    assert all(bool((exported[name] == value).all()) for name, value in in_checkpoint.items())


@pytest.mark.parametrize("saves", ["fairscale", "deepspeed"])
def test_what_an_earlier_version_saved_goes_on_under_its_engine_alone(
    saves: str, tiny_yaml: Path, tmp_path: Path, world: World
) -> None:
    engines = {
        kind: start_engine(load_run(str(tiny_yaml), [*OTHER, f"engine.kind={kind}"]), world)
        for kind in ("fairscale", "deepspeed")
    }
    if saves == "deepspeed":
        engines[saves].save_shards(tmp_path)
    else:
        (tmp_path / SHARDS).mkdir()
        module = {"module": dict(engines[saves].full_parameters())}
        torch.save(module, tmp_path / MODEL_FILE)
        torch.save({"state": {}, "param_groups": [{"params": []}]}, tmp_path / fairscale_file(0))
    other = next(engine for kind, engine in engines.items() if kind != saves)
    with pytest.raises(CheckpointError, match=f"was saved with engine.kind={saves} by an earlier"):
        other.load_shards(tmp_path)
