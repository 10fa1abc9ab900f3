"""`batch.micro_batch=auto`: the largest micro-batch that fits, found by trying.

A probe is a few steps of all ranks in fresh processes, so that one that runs out of memory harms
nobody. It makes the steps of training, with all that they hold, and is limited to a share of the
free memory: on CPU the machine never swaps. The answer is kept in a file that is named after all
that decides it.
"""

import contextlib
import itertools
import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import psutil
import torch
from torch import distributed as dist

from dpot_scale.config.base import content_hash
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import Json
from dpot_scale.data.grids import seen_shares
from dpot_scale.data.stream.assembly import Assembler, Batch, Scale
from dpot_scale.data.stream.reader import PREFETCHED_BATCHES
from dpot_scale.engine.collectives import on_main
from dpot_scale.engine.runtime import World, any_rank, any_ranks, ranks_of_node, start_world
from dpot_scale.engine.start import start_engine
from dpot_scale.errors import ConfigError, UserError, memory_was_refused
from dpot_scale.files import write_whole
from dpot_scale.runs.resolved import ResolvedRun, resolve
from dpot_scale.training.loop import train_step
from dpot_scale.training.noise import Noise
from dpot_scale.training.schedule import Schedule

# Below `output`, for all runs there; hidden, as it is none of them.
FOLDER = ".micro_batches"
DOES_NOT_FIT, USER_ERROR = 42, 43  # exit codes of a probe
# Of one that the system killed, and where nothing in C++ handles a failed allocation.
OUT_OF_MEMORY = (-signal.SIGKILL, -signal.SIGABRT)
LIMIT_VARIABLE = "DPOT_SCALE_PROBE_BYTES"  # what a probe may allocate
STEPS = 2  # the first makes the state of the optimizer
POLL_SECONDS, GRACE_SECONDS = 0.2, 2.0
# No probe takes that long, of the largest model on CPU: one that does waits for something.
PROBE_SECONDS = 1800.0
# Of the free memory. The rest is on CPU for the data loader, the figures and other programs, on a
# GPU for fragments, the evaluation, and what NCCL and cuBLAS allocate beside torch.
USABLE_CPU, USABLE_GPU = 0.8, 0.9
# What torchrun tells its own children alone; a probe would wait for its store for ever.
LAUNCHER_VARIABLES = ("TORCHELASTIC_", "GROUP_", "ROLE_", "NCCL_COMM_ID")
PACKAGE_PARENT = Path(__file__).parents[2]


def settle_micro_batch(run: ResolvedRun, world: World, say: Callable[[str], None]) -> ResolvedRun:
    """Return a run that says auto with the largest micro-batch that fits. Collective.

    Raises:
        ConfigError: the config is wrong, or not even one window fits.
    """
    config = _with_the_largest_grid(run)
    if config.batch.micro_batch != "auto":
        return run
    per_rank, rest = divmod(config.batch.global_batch, world.world_size)
    assert rest == 0, "a micro-batch of one window divides"
    answer = config.output / FOLDER / f"{_key(config, run.deepspeed, world)}.json"
    divisors = [n for n in range(1, per_rank + 1) if per_rank % n == 0]
    found: int | None = _from_main(_read(answer), world)
    if found not in divisors:
        found = largest_that_fits(divisors, lambda n: _fits(config, n, world))
        if found is None:
            raise ConfigError(
                "not even one window per rank fits into memory; use more workers, "
                "engine.activation_checkpointing=full, or a strategy that shards more"
            )
        if world.is_main:
            say(f"batch.micro_batch=auto: {found} of up to {per_rank} windows per rank fit")
        text = json.dumps(found)
        on_main(lambda: write_whole(answer, text), world, answer)
    if found == run.config.batch.micro_batch:
        return run
    return resolve(run.source, world_size=run.world_size, on_gpu=run.on_gpu, micro_batch=found)


def _with_the_largest_grid(run: ResolvedRun) -> RunConfig:
    """Return the config of a run whose model has the largest grid of its windows."""
    config = run.source.config
    shares = seen_shares(config.model, config.data, run.source.contents.stored)
    return config.model_copy(update={"model": config.model.on(max(shares, key=math.prod))})


def largest_that_fits(candidates: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the largest of ascending candidates that fits, by bisection; None if none does."""
    low, high = 0, len(candidates)  # the first `low` fit; none after the first `high` does
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(candidates[middle - 1]) else (low, middle - 1)
    return candidates[low - 1] if low else None


def _key(config: RunConfig, deepspeed: Json, world: World) -> str:
    """Return a hash of all that decides the answer. Rates, lengths, datasets and paths do not."""
    on_gpu = world.device.type == "cuda"
    memory = torch.cuda.mem_get_info()[1] if on_gpu else psutil.virtual_memory().total
    decisive = config.model_dump(
        mode="json",
        include={
            "model": True,
            "engine": True,
            "objective": True,
            "data": {"normalize", "mask_points"},
            "start": {"components", "adapter"},  # what is frozen has no gradients
        },
    )
    sharding = {key: value for key, value in deepspeed.items() if key != "optimizer"}
    ranks = [world.world_size, ranks_of_node()]
    return content_hash(decisive | {"memory": memory, "sharding": sharding, "ranks": ranks})


def _read(answer: Path) -> int | None:
    try:
        found = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if type(found) is int else None


def _fits(config: RunConfig, micro_batch: int, world: World) -> bool:
    """Train a few steps in a fresh process of every rank; return whether all could. Collective.

    Raises:
        ConfigError: a probe fails for another reason than memory.
    """
    port: int = _from_main(_free_port(), world)
    probe = _probe_config(config, micro_batch, world)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "dpot_scale.runs.micro_batch", json.dumps(probe)],
            env=_probe_environment(world, port),
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            code = _ended_everywhere(process, world)
        finally:
            process.kill()
            process.wait()
        if code is None:
            raise ConfigError(
                f"no micro-batch can be found, as a probe with {micro_batch} windows did not end "
                f"within {PROBE_SECONDS / 60:g} minutes; set batch.micro_batch to a number"
            )
        # The other ranks of one that runs out of memory fail too, for lack of it.
        # A peer of one that crashed may abort, as one that runs out of memory does.
        crashed = any_rank(code < 0 and code not in OUT_OF_MEMORY, world)
        if not crashed and any_rank(code in (DOES_NOT_FIT, *OUT_OF_MEMORY), world):
            return False
        if any_rank(code != 0, world):
            ended = f"{signal.Signals(-code).name}: " if code < 0 else ""
            raise ConfigError(
                f"no micro-batch can be found, as a probe with {micro_batch} windows failed: "
                f"{ended}{_last_line(said)}"
            )
    return True


def _probe_config(config: RunConfig, micro_batch: int, world: World) -> Json:
    """Return the run of a probe, in which gradients add up if they will in the run itself."""
    accumulates = config.batch.global_batch > micro_batch * world.world_size
    global_batch = micro_batch * world.world_size * (2 if accumulates else 1)
    return config.model_dump(mode="json") | {
        "batch": {"global_batch": global_batch, "micro_batch": micro_batch},
        "windows": STEPS * global_batch,
    }


def _ended_everywhere(process: "subprocess.Popen[bytes]", world: World) -> int | None:
    """Return the exit code once all probes have ended or one has failed. Collective.

    Returns None if a probe exceeds the time limit.
    """
    deadline = time.monotonic() + PROBE_SECONDS
    while True:
        code = process.poll()
        late = time.monotonic() > deadline
        failed, runs, late = any_ranks([code not in (None, 0), code is None, late], world)
        if failed:
            # The one that failed first closes its connections before its exit code is known.
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(GRACE_SECONDS)
            return 0
        if not runs:
            return 0
        if late:
            return None
        time.sleep(POLL_SECONDS)


def _probe_environment(world: World, port: int) -> dict[str, str]:
    """Return the environment that gives the probes a process group of their own."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)
    }
    paths = [str(PACKAGE_PARENT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return inherited | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.world_size),
        "LOCAL_RANK": str(world.local_rank),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"),
        "MASTER_PORT": str(port),
        LIMIT_VARIABLE: str(_usable_bytes(world)),
    }


def _usable_bytes(world: World) -> int:
    """Return how many bytes a probe of this rank may allocate."""
    if world.device.type == "cuda":
        torch.cuda.empty_cache()  # what the solvers of the data have left
        return int(USABLE_GPU * torch.cuda.mem_get_info(world.device)[0])
    return int(USABLE_CPU * free_bytes() / ranks_of_node())


def free_bytes() -> int:
    """Return how much memory is free on the machine, or in its container."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        pass
    return free


def _from_main(value: Any, world: World) -> Any:  # noqa: ANN401 - whatever the main rank has
    shared = [value if world.is_main else None]
    dist.broadcast_object_list(shared, src=0, device=world.device)
    return shared[0]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def try_out(config: RunConfig) -> None:
    """Make a few training steps on random windows, in a process of their own."""
    world = start_world(config.seed, config.limits.patience)
    if limit := os.environ.get(LIMIT_VARIABLE):
        _limit_memory(int(limit), world)
    engine = start_engine(config, world)
    batches = itertools.cycle(random_batches(config, world))
    schedule, noise = Schedule.of(config), Noise(config.seed, world.device)
    for step in range(STEPS):
        rates = schedule.at(step)
        _, update = train_step(engine, lambda: next(batches), config, world, rates, noise)
        update.grad_norm.item()  # until the device has come to it


def _limit_memory(limit: int, world: World) -> None:
    if world.device.type == "cuda":
        total = torch.cuda.get_device_properties(world.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0), world.device)
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def random_batches(config: RunConfig, world: World) -> list[Batch]:
    """Return as many random batches as the data stream keeps in memory at a time."""
    model, windows = config.model, config.batch.settled_micro_batch
    assembler = Assembler(model, config.data, world.device)
    ones_BC = torch.ones(windows, model.channels, device=world.device)
    scale = Scale(torch.zeros_like(ones_BC), ones_BC) if config.data.normalize != "none" else None
    batches = []
    for _ in range(1 + PREFETCHED_BATCHES):
        frames_BTCxy = assembler.empty(windows, config.window_frames).normal_()
        counted_Bxy = frames_BTCxy[:, 0, 0] < torch.inf if config.data.mask_points else None
        batch = Batch(
            frames_BTCxy=frames_BTCxy,
            scored_BC=ones_BC.bool(),
            scale=scale,
            counted_Bxy=counted_Bxy,
            conditions_BK=assembler.unknown_conditions(windows),
            positions=tuple(range(windows)),
        )
        batches.append(batch)
    return batches


def main(arguments: Sequence[str]) -> int:
    """Run one rank of a probe; the exit code is the answer."""
    try:
        try_out(RunConfig.model_validate_json(arguments[0]))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not memory_was_refused(error):
            raise
        return DOES_NOT_FIT
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # a rank that ran out of memory must not wait for its peers
