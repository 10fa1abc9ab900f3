"""The search for a micro-batch: bisection, memory that runs out, other failures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.schema import RunConfig, run_hash
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import ConfigError
from dpot_scale.training import micro_batch
from dpot_scale.training.micro_batch import largest_that_fits, settle_micro_batch
from dpot_scale.training.result import read_result


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


def run_in(folder: Path, *overrides: str) -> RunConfig:
    return load_run(
        "quickstart",
        [
            f"output={folder}",
            "engine.deepspeed=zero0_fp32",
            "batch.micro_batch=auto",
            "batch.global_batch=64",
            "windows=64",
            "model.width=16",
            "model.depth=1",
            "model.grid=16",
            "model.patch=4",
            *overrides,
        ],
    )


@pytest.mark.parametrize("limit", range(9))
def test_bisection_finds_the_largest_in_few_trials(limit: int) -> None:
    candidates = [1, 2, 3, 4, 6, 8, 12, 24]
    tried: list[int] = []

    def fits(candidate: int) -> bool:
        tried.append(candidate)
        return candidates.index(candidate) < limit

    expected = candidates[limit - 1] if limit else None
    assert largest_that_fits(candidates, fits) == expected
    assert len(tried) <= 4
    assert len(set(tried)) == len(tried)


def test_a_number_is_left_as_it_is(tmp_path: Path, world: World) -> None:
    config = run_in(tmp_path, "batch.micro_batch=8")
    assert settle_micro_batch(config, world, print) is config


def test_a_real_trial_runs_out_of_memory_and_another_fits(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    # A window takes 125 MiB of activations and the process less than 1 GiB. A prime number of
    # windows: all of them are tried, and one.
    large = ["model.grid=512", "model.patch=32", "batch.global_batch=101", "windows=101"]
    config = run_in(tmp_path, *large)
    monkeypatch.setattr(micro_batch, "free_bytes", lambda: 3 * 2**30)
    settled = settle_micro_batch(config, world, said.append)
    assert settled.batch.settled_micro_batch == 1
    assert settled.batch.global_batch == 101
    assert len(said) == 1
    # The answer is remembered, and the config is the same run as before.
    monkeypatch.setattr(micro_batch, "_fits", lambda *_: pytest.fail("tried again"))
    assert settle_micro_batch(config, world, said.append) == settled
    assert run_hash(settled) == run_hash(config)


def test_not_even_one_window(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "_fits", lambda *_: False)
    with pytest.raises(ConfigError, match=r"not even one window per rank fits"):
        settle_micro_batch(run_in(tmp_path), world, print)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("engine.deepspeed=zero3_bf61", "did you mean 'zero3_bf16'"),
        ("engine.deepspeed=zero3_bf16_nvme", "set engine.nvme_path"),
    ],
)
def test_a_mistake_is_no_reason_to_search(
    override: str, sentence: str, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "_fits", lambda *_: pytest.fail("tried"))
    with pytest.raises(ConfigError, match=sentence):
        settle_micro_batch(run_in(tmp_path, override), world, print)


def test_a_trial_that_fails_otherwise_ends_the_search(tmp_path: Path, world: World) -> None:
    if Path("/usr/include/libaio.h").exists():
        pytest.skip("this machine has what the trial lacks")
    config = run_in(tmp_path, "engine.deepspeed=zero3_bf16_nvme", "engine.nvme_path=/nowhere")
    with pytest.raises(ConfigError, match=r"a trial with 8 windows failed: .*libaio"):
        settle_micro_batch(config, world, print)


@pytest.mark.distributed
def test_two_ranks_agree(start: Callable) -> None:
    ended = start("auto", "batch.micro_batch=auto", ranks=2).ended()
    assert ended.code == 0, ended.err
    assert "batch.micro_batch=auto: 2 of up to 2 windows per rank fit" in ended.out
    assert read_result(ended.directory) is not None
    answers = list((ended.directory.parent / micro_batch.FOLDER).glob("*.json"))
    assert [json.loads(answer.read_text()) for answer in answers] == [2]
