"""The search for a micro-batch: bisection, memory that runs out, other failures."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import DistBackendError

from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.data.stream.assembly import Batch
from dpot_scale.data.stream.reader import PREFETCHED_BATCHES
from dpot_scale.engine.runtime import World, start_world, trains_on_gpu
from dpot_scale.errors import ConfigError, memory_was_refused
from dpot_scale.runs import micro_batch
from dpot_scale.runs.micro_batch import largest_that_fits, settle_micro_batch
from dpot_scale.runs.resolved import ResolvedRun, identify, resolve
from dpot_scale.runs.result import read_result
from dpot_scale.training import loop
from dpot_scale.training.objective import training_loss

FIRST = str(Path(__file__).parents[1] / "golden" / "first_quickstart.yaml")  # by Adam


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


def run_in(folder: Path, *overrides: str) -> ResolvedRun:
    config = load_run(
        FIRST,
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
    return resolve(identify(config), world_size=1, on_gpu=trains_on_gpu())


@pytest.mark.parametrize("limit", range(9))
def test_bisection_finds_the_largest_in_few_probes(limit: int) -> None:
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
    run = run_in(tmp_path, "batch.micro_batch=8")
    assert settle_micro_batch(run, world, print) is run


def test_a_real_probe_runs_out_of_memory_and_another_fits(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    # A window takes 125 MiB of activations and the process less than 1 GiB. A prime number of
    # windows: all of them are tried, and one.
    large = ["model.grid=512", "model.patch=32", "batch.global_batch=101", "windows=101"]
    run = run_in(tmp_path, *large)
    monkeypatch.setattr(micro_batch, "free_bytes", lambda: 3 * 2**30)
    settled = settle_micro_batch(run, world, said.append)
    assert settled.config.batch.settled_micro_batch == 1
    assert settled.accumulation_steps == settled.config.batch.global_batch == 101
    assert len(said) == 1
    # The answer is remembered, and the config is the same run as before.
    monkeypatch.setattr(micro_batch, "_fits", lambda *_: pytest.fail("tried again"))
    assert settle_micro_batch(run, world, said.append) == settled
    assert identify(settled.config).identity == run.source.identity


def test_not_even_one_window(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "_fits", lambda *_: False)
    with pytest.raises(ConfigError, match=r"not even one window per rank fits"):
        settle_micro_batch(run_in(tmp_path), world, print)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("engine.deepspeed=zero3_bf61", "did you mean 'zero3_bf16'"),
        ("engine.deepspeed=auto.json", r"sub_group_size cannot be \"auto\" at stage 1"),
    ],
)
def test_a_mistake_is_no_reason_to_search(
    override: str, sentence: str, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "_fits", lambda *_: pytest.fail("tried"))
    monkeypatch.chdir(tmp_path)
    zero = {"stage": 1, "sub_group_size": "auto"}
    Path("auto.json").write_text(json.dumps({"zero_optimization": zero}))
    with pytest.raises(ConfigError, match=sentence):
        settle_micro_batch(run_in(tmp_path, override), world, print)


def test_a_probe_that_fails_otherwise_ends_the_search(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/proc/no_folder")
    with pytest.raises(ConfigError, match=r"a probe with 8 windows failed: .*/proc/no_folder"):
        settle_micro_batch(run_in(tmp_path), world, print)


def test_a_probe_that_crashes_ends_the_search(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one for which /dev/shm is too small; nothing is remembered of it."""
    crashes = "import os, signal; os.kill(os.getpid(), signal.SIGBUS)"
    popen = subprocess.Popen
    monkeypatch.setattr(
        micro_batch.subprocess,
        "Popen",
        lambda command, **how: popen([command[0], "-c", crashes], **how),
    )
    with pytest.raises(ConfigError, match="a probe with 8 windows failed: SIGBUS: it said nothing"):
        settle_micro_batch(run_in(tmp_path), world, print)


def test_an_answer_is_of_what_trains_and_of_how_many_ranks_share_a_machine(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(micro_batch, "_fits", lambda *_: asked.append(1) or True)
    settle_micro_batch(run_in(tmp_path), world, print)
    assert asked
    for change in ("start.components.blocks={lr: 0.5}", "8 ranks"):
        asked.clear()
        if change == "8 ranks":
            monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
        settle_micro_batch(run_in(tmp_path, *([change] if "=" in change else [])), world, print)
        assert asked, change


def test_a_probe_that_takes_too_long_ends_the_search(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "PROBE_SECONDS", 0.0)
    with pytest.raises(ConfigError, match=r"a probe with 8 windows did not end within 0 minutes"):
        settle_micro_batch(run_in(tmp_path), world, print)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        DistBackendError("NCCL error: unhandled cuda error\nFailed to CUDA calloc 6291456 bytes"),
        DistBackendError("NCCL error\nLast error:\nCuda failure 2 'out of memory'"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate"),
    ],
)
def test_memory_that_is_refused_has_many_names(error: BaseException) -> None:
    assert memory_was_refused(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: device-side assert triggered"), DistBackendError("NCCL")]
)
def test_not_every_error_is_about_memory(error: BaseException) -> None:
    assert not memory_was_refused(error)


def test_a_probe_makes_the_steps_of_the_run(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many buffers, frames and forwards, and gradients that add up where they will."""
    seen: list[Batch] = []

    def remembered(engine: Any, batch: Batch, *options: Any) -> Any:
        seen.append(batch)
        return training_loss(engine, batch, *options)

    monkeypatch.setattr(loop, "training_loss", remembered)
    options = ["objective.unroll=2", "data.normalize=dataset", "data.mask_points=true"]
    config = run_in(tmp_path, *options, "batch.global_batch=16", "windows=64").source.config
    for windows, per_step in ((8, 2), (16, 1)):
        seen.clear()
        probe = micro_batch._probe_config(config, windows, world)
        micro_batch.try_out(RunConfig.model_validate(probe))
        assert len(seen) == per_step * micro_batch.STEPS
        assert all(batch.scale and batch.counted_Bxy is not None for batch in seen)
        assert {batch.frames_BTCxy.shape[:2] for batch in seen} == {(windows, 10 + 2)}
        addresses = {batch.frames_BTCxy.data_ptr() for batch in seen}
        assert len(addresses) == min(len(seen), 1 + PREFETCHED_BATCHES)


@pytest.mark.distributed
def test_two_ranks_agree(start: Callable) -> None:
    ended = start("auto", "batch.micro_batch=auto", "windows=16", ranks=2).ended()
    assert ended.code == 0, ended.err
    assert "batch.micro_batch=auto: 2 of up to 2 windows per rank fit" in ended.out
    assert read_result(ended.directory) is not None
    answers = list((ended.directory.parent / micro_batch.FOLDER).glob("*.json"))
    assert [json.loads(answer.read_text()) for answer in answers] == [2]


@pytest.mark.distributed
def test_a_probe_needs_nothing_of_torchrun(start: Callable) -> None:
    """With the store that torchrun announces to its own children, it would wait for ever."""
    options = ["batch.micro_batch=auto", "windows=16", "objective.noise=0.02"]  # not the one above
    ended = start("auto_torchrun", *options, ranks=2, torchrun=True).ended()
    assert ended.code == 0, ended.err
    assert "batch.micro_batch=auto: 2 of up to 2 windows per rank fit" in ended.out
