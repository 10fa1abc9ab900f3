"""`batch.micro_batch=auto`: the largest micro-batch that fits, found by trying.

A trial is a few steps of all ranks in fresh processes, so that one that runs out of memory harms
nobody. On CPU each is limited to its share of the free memory: the machine never swaps. The answer
is kept in a file that is named after all that decides it.
"""

import contextlib
import json
import os
import resource
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

from dpot_scale.config.schema import RunConfig, hashed
from dpot_scale.engine.collectives import on_main
from dpot_scale.engine.runtime import World, any_rank, ranks_of_node, start_world
from dpot_scale.engine.strategy import Json, effective_deepspeed_config
from dpot_scale.engine.zero import ZeroEngine
from dpot_scale.errors import ConfigError, UserError
from dpot_scale.files import write_whole

FOLDER = "micro_batches"  # below `output`, for all runs there
DOES_NOT_FIT, USER_ERROR = 42, 43  # exit codes of a trial
LIMIT_VARIABLE = "DPOT_SCALE_TRIAL_BYTES"  # what a trial may allocate
STEPS = 2  # the first makes the state of the optimizer
POLL_SECONDS, GRACE_SECONDS = 0.2, 2.0
# Of the free memory. The rest is for the data loader, the figures and other programs.
USABLE = 0.8
PACKAGE_PARENT = Path(__file__).parents[2]


def settle_micro_batch(config: RunConfig, world: World, say: Callable[[str], None]) -> RunConfig:
    """Return the config with a number where it says auto. Collective.

    Raises:
        ConfigError: the config is wrong, or not even one window fits.
    """
    if config.batch.micro_batch != "auto":
        return config
    per_rank, rest = divmod(config.batch.global_batch, world.world_size)
    if rest:
        raise ConfigError(
            f"batch.global_batch={config.batch.global_batch} is not a multiple of the "
            f"{world.world_size} workers"
        )
    # A user's mistake is found here and not by trials.
    on_gpu = world.device.type == "cuda"
    least = config.with_micro_batch(1)
    sharding = effective_deepspeed_config(least, world.world_size, on_gpu=on_gpu)
    answer = config.output / FOLDER / f"{_key(config, sharding, world)}.json"
    found: int | None = _from_main(_read(answer), world)
    if found is None:
        divisors = [n for n in range(1, per_rank + 1) if per_rank % n == 0]
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
    return config.with_micro_batch(found)


def largest_that_fits(candidates: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the largest of ascending candidates that fits, by bisection; None if none does."""
    low, high = 0, len(candidates)  # the first `low` fit; none after the first `high` does
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(candidates[middle - 1]) else (low, middle - 1)
    return candidates[low - 1] if low else None


def _key(config: RunConfig, sharding: Json, world: World) -> str:
    """Return a name for what decides the answer: no rates, lengths, data or places."""
    on_gpu = world.device.type == "cuda"
    memory = torch.cuda.mem_get_info()[1] if on_gpu else psutil.virtual_memory().total
    decisive = config.model_dump(mode="json", include={"model", "engine", "objective"})
    sharding = {key: value for key, value in sharding.items() if key != "optimizer"}
    return hashed(decisive | {"memory": memory, "sharding": sharding})


def _read(answer: Path) -> int | None:
    try:
        found = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, int) else None


def _fits(config: RunConfig, micro_batch: int, world: World) -> bool:
    """Train a few steps in a fresh process of every rank; return whether all could. Collective.

    Raises:
        ConfigError: a trial fails for another reason than memory.
    """
    port: int = _from_main(_free_port(), world)
    batch = {"global_batch": micro_batch * world.world_size, "micro_batch": micro_batch}
    trial = config.model_dump(mode="json") | {"batch": batch}
    trial["windows"] = STEPS * micro_batch * world.world_size
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "dpot_scale.training.micro_batch", json.dumps(trial)],
            env=os.environ | _trial_environment(world, port),
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            code = _ended_everywhere(process, world)
        finally:
            process.kill()
            process.wait()
        # The other ranks of one that runs out of memory fail too, for lack of it.
        if any_rank(code == DOES_NOT_FIT or code < 0, world):
            return False
        if any_rank(code != 0, world):
            raise ConfigError(
                f"no micro-batch can be found, as a trial with {micro_batch} windows failed: "
                f"{_last_line(said)}"
            )
    return True


def _ended_everywhere(process: "subprocess.Popen[bytes]", world: World) -> int:
    """Return the exit code once all trials have ended, or one has failed. Collective."""
    while True:
        code = process.poll()
        if any_rank(code is not None and code != 0, world):
            # The one that failed first closes its connections before its exit code is known.
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(GRACE_SECONDS)
            return 0
        if not any_rank(code is None, world):
            return 0
        time.sleep(POLL_SECONDS)


def _trial_environment(world: World, port: int) -> dict[str, str]:
    """Return what puts a trial into a world of its own, of the same shape."""
    paths = [str(PACKAGE_PARENT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.world_size),
        "LOCAL_RANK": str(world.local_rank),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"),
        "MASTER_PORT": str(port),
    }
    if world.device.type == "cpu":
        environment[LIMIT_VARIABLE] = str(int(USABLE * free_bytes() / ranks_of_node()))
    return environment


def free_bytes() -> int:
    """Return the memory that may still be used here: of the machine, or of its container."""
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
    """Train a few steps on random windows, in a process of their own."""
    world = start_world(config.seed)
    engine = ZeroEngine(config, world)
    model = config.model
    space = [model.grid] * model.space_dims
    shape = (config.batch.settled_micro_batch, model.history, model.channels, *space)
    for step in range(STEPS):
        history_BTCs = torch.randn(shape, device=world.device)
        loss = torch.zeros((), device=world.device)
        for _ in range(config.objective.unroll):
            frames_BTCs = engine(history_BTCs).frames
            loss = loss + frames_BTCs.square().mean()
            history_BTCs = torch.cat([history_BTCs, frames_BTCs], dim=1)[:, -model.history :]
        engine.backward(loss)
        engine.step(step).grad_norm.item()


def _ran_out(error: BaseException) -> bool:
    """Return whether an error means that memory was refused; on CPU only its text says so."""
    text = str(error).lower()
    refusals = ("can't allocate", "cannot allocate", "bad_alloc", "could not create a memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        refusal in text for refusal in refusals
    )


def main(arguments: Sequence[str]) -> int:
    """Run one rank of a trial; the exit code is the answer."""
    if limit := os.environ.get(LIMIT_VARIABLE):
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    try:
        try_out(RunConfig.model_validate_json(arguments[0]))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not _ran_out(error):
            raise
        return DOES_NOT_FIT
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # a rank that ran out of memory must not wait for its peers
