"""Ranks, device, threads and seeds: everything a process settles before it builds a model."""

import atexit
import contextlib
import importlib
import io
import logging
import os
import random
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed as dist

from dpot_scale.config.engine import ACCELERATOR
from dpot_scale.config.limits import LimitsConfig
from dpot_scale.engine.operators import build_operators
from dpot_scale.errors import ConfigError, DeviceError

# Set to 1 to see what DeepSpeed reports below the level of errors.
DEBUG_VARIABLE = "DPOT_SCALE_DEBUG"

# How DeepSpeed's shared memory files begin (csrc/cpu/comm/shm.cpp).
SHARED_BUFFER = "/dev/shm/deepspeed_allreduce_buffer"

PATIENCE = LimitsConfig().patience

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where this process stands among the ranks."""

    rank: int
    local_rank: int  # on this node
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None  # in which ranks agree; None: that of all
    patience: timedelta = PATIENCE  # with the others, in a collective call

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks for all."""
        return self.rank == 0

    def share(self, items: Iterable[T]) -> list[T]:
        """Return those of some items that this rank does, where the ranks share the work."""
        return list(items)[self.rank :: self.world_size]


def start_world(seed: int = 0, patience: timedelta = PATIENCE) -> World:
    """Join the process group, choose the device and seed this process.

    Works under the `deepspeed` launcher and torchrun (environment variables), inside a process
    group that exists already, as in a Ray Train worker, and alone as a world of one.

    Args:
        seed: The seed of Python, numpy and torch, shifted by the rank.
        patience: How long to wait for the other ranks. Of a process group that exists already,
            whoever made it has decided that.
    """
    world = join_ranks(patience)
    with quiet_deepspeed():
        _adopt(world.device)
    _seed(seed + world.rank)
    return world


def join_ranks(patience: timedelta = PATIENCE) -> World:
    """Join the process group and choose the device: the part of `start_world` without DeepSpeed."""
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))  # zero.Init reads it too
    device = torch.device("cpu")
    # The device under the current context is the right one.
    warnings.filterwarnings("ignore", message=r"barrier\(\): using the device under current")
    if trains_on_gpu():
        _require_gpu(local_rank)
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        os.environ[ACCELERATOR] = "cpu"  # DeepSpeed would take a GPU that it can see
    _limit_threads()
    _join(device, patience)
    return World(
        rank=dist.get_rank(),
        local_rank=local_rank,
        world_size=dist.get_world_size(),
        device=device,
        patience=patience,
    )


def announced_world_size() -> int:
    """Return the number of ranks that there are, or that the launcher has announced."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def trains_on_gpu() -> bool:
    """Return whether the ranks train on GPUs.

    An existing process group decides it, if any. Else DS_ACCELERATOR=cpu keeps them on CPUs: the
    deepspeed launcher sets CUDA_VISIBLE_DEVICES itself, so that cannot hide the GPUs there.
    """
    if not torch.cuda.is_available():
        return False
    if dist.is_initialized():
        return "nccl" in dist.get_backend()
    return os.environ.get(ACCELERATOR) != "cpu"


def _require_gpu(local_rank: int) -> None:
    """Refuse to be one of more ranks than there are GPUs.

    Raises:
        DeviceError: this rank is the first one that has none, and speaks for all of its machine.
        ConfigError: it is another one.
    """
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        of_those = "" if shown is None else f" in CUDA_VISIBLE_DEVICES={shown}"
        kind = DeviceError if local_rank == gpus else ConfigError
        raise kind(
            f"rank {local_rank} of {socket.gethostname()} has no GPU: there are {gpus}{of_those}; "
            f"start one rank for each GPU, or set {ACCELERATOR}=cpu to train on CPUs"
        )


def any_rank(flag: bool, world: World) -> bool:
    """Return True on every rank if `flag` is true on one. Collective: every rank must call it."""
    return any_ranks([flag], world)[0]


def any_ranks(flags: Sequence[bool], world: World) -> list[bool]:
    """Return, for each flag, whether it is true on any rank: several votes at the cost of one.

    Collective: every rank must call it, with as many flags.
    """
    votes = torch.tensor([int(flag) for flag in flags], device=world.device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=world.group)
    return [bool(vote) for vote in votes.tolist()]


def aside(world: World) -> World:
    """Return a world in which a thread of each rank can agree while training goes on. Collective.

    Its ranks meet on the host, in a group of their own: what two threads of a rank do in one group
    would be taken for each other.
    """
    return replace(world, device=torch.device("cpu"), group=host_group(world))


def host_group(world: World) -> dist.ProcessGroup | None:
    """Return a new group of all ranks on the host; None if there is one rank. Collective."""
    if world.world_size == 1:
        return None
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=world.patience)
    return group


def ranks_of_node() -> int:
    """Return how many ranks share this node."""
    # The deepspeed launcher and torchrun do not agree on the name.
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")


def _join(device: torch.device, patience: timedelta) -> None:
    """Make the process group, unless this process is in one already."""
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        # With a device, NCCL makes later groups by splitting this one. One rank alone gains
        # nothing from that, and the split was reported to fail there (deepspeed#8248).
        bound = device.type == "cuda" and announced_world_size() > 1
        dist.init_process_group(backend, timeout=patience, device_id=device if bound else None)
    else:
        # A store in this process instead of a port, which another run could have taken.
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    # The threads of gloo abort an interpreter that exits before they do; NCCL complains.
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _adopt(device: torch.device) -> None:
    """Let DeepSpeed use the process group that exists."""
    # Imported late because it takes seconds, and after its logger has been quietened.
    with _without_mlflow():
        import deepspeed
    _define_muon_uncompiled()
    build_operators()
    deepspeed.init_distributed()
    if device.type == "cpu":
        _unlink_shared_buffers()


@contextlib.contextmanager
def _without_mlflow() -> Iterator[None]:
    """Hide MLflow from DeepSpeed, which imports it for its autotuner alone: a second per rank."""
    if "mlflow" in sys.modules:
        yield
        return
    hidden: dict[str, Any] = {"mlflow": None}  # how Python is told that there is no such module
    sys.modules.update(hidden)
    try:
        yield
    finally:
        del sys.modules["mlflow"]


def _define_muon_uncompiled() -> None:
    """Import DeepSpeed's own Muon without torch's compiler, which takes a second per rank.

    Every engine of DeepSpeed asks whether its optimizer is that one; here it never is.
    """
    from deepspeed.runtime import compiler

    given, compiler.compile = compiler.compile, lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = given


def _unlink_shared_buffers() -> None:
    """Remove the names of the buffers that DeepSpeed shares among the ranks of a CPU node.

    They stay mapped as long as a rank lives. DeepSpeed never removes them, so each run would leave
    66 MiB per rank in the memory of the machine.
    """
    dist.barrier()  # until every rank has opened those of the others
    maps = Path("/proc/self/maps")
    for line in maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []:
        if SHARED_BUFFER in line and not line.endswith("(deleted)"):
            Path(line.split(maxsplit=5)[5]).unlink(missing_ok=True)


@contextlib.contextmanager
def quiet_deepspeed() -> Iterator[None]:
    """Keep DeepSpeed's start-up prints and all its later warnings off the terminal."""
    if os.environ.get(DEBUG_VARIABLE) == "1":
        yield
        return
    # A filter, not a level: DeepSpeed sets the level of its logger when it is imported.
    logging.getLogger("DeepSpeed").addFilter(_is_error)
    # DeepSpeed calls collectives by names that torch renames.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _limit_threads() -> None:
    """Share the cores among the ranks of this node, unless the launcher has done it."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_of_node()))


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the state libraries draw from
    torch.manual_seed(seed)
