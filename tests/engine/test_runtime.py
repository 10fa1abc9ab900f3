"""Starting a process: alone, in a group that exists, and what is shared among ranks."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from dpot_scale.config.engine import ACCELERATOR
from dpot_scale.engine.runtime import join_ranks, trains_on_gpu
from dpot_scale.errors import ConfigError, DeviceError

ALONE = """
import os, random, sys
import numpy as np, torch
from dpot_scale.engine.runtime import any_rank, start_world
if "adopt" in sys.argv:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
world = start_world(seed=3)
assert "mlflow" not in sys.modules, "DeepSpeed imports it for its autotuner, for a second"
from deepspeed.runtime.zero.muon import muon_optimizer  # as every engine of DeepSpeed does
assert "torch._inductor.compile_fx" not in sys.modules, "torch's compiler, for a second"
from deepspeed import comm
assert comm.is_initialized() and comm.get_world_size() == 1
assert (world.rank, world.local_rank, world.world_size, world.is_main) == (0, 0, 1, True)
assert any_rank(True, world) and not any_rank(False, world)
assert not {"MASTER_PORT", "RANK"} & set(os.environ)
print(torch.get_num_threads(), random.random(), np.random.rand(), torch.rand(1).item())
if "adopt" in sys.argv:
    torch.distributed.destroy_process_group()
"""


def start(*arguments: str, **environment: str) -> str:
    """Return what the process prints.

    A thread of gloo may abort an interpreter that has done everything and exits, once in hundreds
    of times; then it is started again.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in {"RANK", "MASTER_PORT"}}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", ALONE, *arguments],
            env=inherited | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if not (done.returncode == -signal.SIGABRT and done.stdout):
            break
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.distributed
def test_alone_and_in_an_existing_group_are_alike_and_quiet() -> None:
    alone = start(OMP_NUM_THREADS="1")
    assert alone == start("adopt", OMP_NUM_THREADS="1")
    assert len(alone.splitlines()) == 1, "only the script itself prints"
    assert alone.startswith("1 ")


@pytest.mark.parametrize("variable", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_ranks_of_a_node_share_its_cores(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpot_scale.engine import runtime

    chosen: list[int] = []
    monkeypatch.setattr(runtime.torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    runtime._limit_threads()
    monkeypatch.setenv(variable, "4")
    runtime._limit_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    runtime._limit_threads()
    assert chosen == [8, 2]


@pytest.mark.parametrize(("local_rank", "speaks"), [(1, True), (2, False)])
def test_more_ranks_than_gpus_are_refused(
    local_rank: int, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.delenv(ACCELERATOR, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    sentence = rf"rank {local_rank} of \S+ has no GPU: there are 1 in CUDA_VISIBLE_DEVICES=3; start"
    with pytest.raises(ConfigError, match=sentence) as refused:
        join_ranks()
    assert isinstance(refused.value, DeviceError) == speaks


def test_ranks_may_be_kept_from_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under the deepspeed launcher, which sets CUDA_VISIBLE_DEVICES itself."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.delenv(ACCELERATOR, raising=False)
    assert trains_on_gpu()
    monkeypatch.setenv(ACCELERATOR, "cpu")
    assert not trains_on_gpu()


def test_a_group_that_exists_decides_whether_ranks_are_on_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As that of Ray's workers, whatever the driver was told."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    monkeypatch.setenv(ACCELERATOR, "cpu")
    assert trains_on_gpu()
