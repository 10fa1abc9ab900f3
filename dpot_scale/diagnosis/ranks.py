"""Checks that all ranks make together: what they compute, how fast, and what they share."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import distributed as dist

from dpot_scale.config.run import RunConfig
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.diagnosis.needs import Needs
from dpot_scale.diagnosis.patience import REACH
from dpot_scale.engine.collectives import gathered, sum_over_ranks
from dpot_scale.engine.peers import WAITS_OF_GLOO, reason
from dpot_scale.engine.runtime import World, any_rank, host_group
from dpot_scale.errors import UserError
from dpot_scale.files import held, is_held
from dpot_scale.runs.agreement import require_one_folder

MIB, GB = 2**20, 1e9
PROBE = ".doctor_probe"
PROBE_BYTES = 32 * MIB  # that each rank reads from the storage
MESSAGE_BYTES = {"cpu": 16 * MIB, "cuda": 256 * MIB}
REPEATS = 5
SLOW_GB_PER_SECOND = {"cpu": 0.05, "cuda": 5.0}  # below it a network is not what was paid for
SKEW_SECONDS = 2.0  # beyond it records of two nodes are out of order
REFUSED_SECONDS = 300.0  # beyond it S3 and signed tokens are refused


def ranks_findings(config: RunConfig, world: World, needs: Needs | None) -> Iterator[Finding]:
    """Yield what the checks of all ranks find, the same on every rank. Collective.

    Args:
        config: A run that is to be trained, its paths absolute.
        world: The ranks.
        needs: What it needs, if that is known.
    """
    yield results_of_collectives(world)
    yield speed_of_collectives(world, needs.sending if needs else None)
    yield clocks(world)
    if world.world_size > 1:
        yield host_network(world)
        shared = shared_folder(config.output, world)
        yield shared
        if shared.verdict == "ok":
            yield locks_between_ranks(config.output, world)
    root = config.data.root
    data = root if os.access(root, os.W_OK) else config.output
    yield read_speed(data, world, needs.reading if needs else None)


def results_of_collectives(world: World) -> Finding:
    """Compare what collectives return with what is known. Collective."""
    n, mine = world.world_size, torch.full((1024,), world.rank + 1.0, device=world.device)
    wrong = []
    total = mine.clone()
    dist.all_reduce(total)
    if not bool((total == n * (n + 1) / 2).all()):
        wrong.append("all_reduce")
    gathered = [torch.empty_like(mine) for _ in range(n)]
    dist.all_gather(gathered, mine)
    if any(not bool((one == rank + 1.0).all()) for rank, one in enumerate(gathered)):
        wrong.append("all_gather")
    part = torch.empty_like(mine)
    dist.reduce_scatter(part, [mine * (rank + 1) for rank in range(n)])
    if not bool((part == (world.rank + 1) * n * (n + 1) / 2).all()):
        wrong.append("reduce_scatter")
    sent = mine.clone()
    dist.broadcast(sent, src=n - 1)
    if not bool((sent == n).all()):
        wrong.append("broadcast")
    # Told by every rank to every rank, as a rank alone may be wrong.
    all_wrong: list[list[str]] = [[] for _ in range(n)]
    dist.all_gather_object(all_wrong, wrong)
    found = {
        name: [r for r, names in enumerate(all_wrong) if name in names]
        for name in chain.from_iterable(all_wrong)
    }
    if not found:
        ranks = "1 rank" if n == 1 else f"{n} ranks"
        return Finding("collectives", "ok", f"right on {ranks}, by {dist.get_backend()}")
    words = ", ".join(f"{name} on ranks {ranks}" for name, ranks in found.items())
    to_do = (
        "a link or a driver is broken: try without the fast paths (NCCL_P2P_DISABLE=1, then "
        "NCCL_IB_DISABLE=1), and leave out the node that is wrong in every try"
    )
    return Finding("collectives", "stops", f"wrong: {words}", to_do)


def host_network(world: World) -> Finding:
    """Let the ranks meet on the host, as every run does: on GPUs, beside NCCL. Collective."""
    total, problem = torch.full((1024,), world.rank + 1.0), ""
    try:
        # Who has failed already waits for the others in what follows.
        group = host_group(replace(world, patience=world.patience / (2 * WAITS_OF_GLOO)))
        dist.all_reduce(total, group=group)
        dist.destroy_process_group(group)
        if not bool((total == world.world_size * (world.world_size + 1) / 2).all()):
            problem = "a wrong sum"
    except RuntimeError as error:  # of gloo, or of the store through which ranks find each other
        problem = reason(error)
    problems = [""] * world.world_size
    dist.all_gather_object(problems, problem)
    bad = [words for words in problems if words]
    if not bad:
        return Finding("host network", "ok", "the ranks meet on it too, by gloo")
    # One side is refused at once, and knows why; the other one waits to be connected to.
    told = [f"rank {problems.index(words)}: {words}" for words in dict.fromkeys(bad)][:2]
    found = f"{len(bad)} of {len(problems)} ranks do not meet the others; {'; '.join(told)}"
    return Finding("host network", "stops", found, REACH)


def speed_of_collectives(world: World, needed: float | None = None) -> Finding:
    """Measure an all_reduce: the bandwidth that each rank has for messages. Collective.

    Args:
        world: The ranks.
        needed: Bytes/s that a rank of the run sends; None if nobody knows.
    """
    n, kind = world.world_size, world.device.type
    if n == 1:
        return Finding("bandwidth", "ok", "one rank sends nothing")
    message = torch.zeros(MESSAGE_BYTES[kind] // 4, device=world.device)
    dist.all_reduce(message)  # makes the connections
    started = _now(world)
    for _ in range(REPEATS):
        dist.all_reduce(message)
    seconds = (_now(world) - started) / REPEATS
    # As NVIDIA's nccl-tests define the bus bandwidth of an all_reduce.
    speed = sum_over_ranks(torch.tensor([2 * (n - 1) / n * MESSAGE_BYTES[kind] / seconds]), world)
    gb_per_second = speed.item() / n / GB
    found = f"all_reduce of {MESSAGE_BYTES[kind] // MIB} MiB: {gb_per_second:.2f} GB/s per rank"
    found += _compared(needed)
    if gb_per_second >= max(SLOW_GB_PER_SECOND[kind], (needed or 0) / GB):
        return Finding("bandwidth", "ok", found)
    to_do = (
        "NCCL_DEBUG=INFO says which network is used; NCCL_SOCKET_IFNAME chooses one, and "
        "containers need access to InfiniBand; engine.deepspeed=zero1_bf16 sends less"
        if kind == "cuda"
        else "more ranks than cores, or a slow network: GLOO_SOCKET_IFNAME chooses one"
    )
    return Finding("bandwidth", "note", found, to_do)


def _now(world: World) -> float:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return time.perf_counter()


def clocks(world: World) -> Finding:
    """Compare the clocks of the nodes, as exactly as a barrier allows. Collective."""
    dist.barrier()
    times: list[float] = [0.0] * world.world_size
    dist.all_gather_object(times, time.time())
    skew = max(times) - min(times)
    found = f"{skew:.2f} s apart"
    if skew <= SKEW_SECONDS:
        return Finding("clocks", "ok", found)
    to_do = "let all nodes follow one time server (chrony, or systemd-timesyncd)"
    return Finding("clocks", "stops" if skew > REFUSED_SECONDS else "note", found, to_do)


def shared_folder(folder: Path, world: World) -> Finding:
    """Say whether all ranks see one folder of results. Collective."""
    try:
        require_one_folder(folder, world)
    except UserError as error:
        return Finding("shared storage", "stops", str(error), "mount one file system on all nodes")
    return Finding("shared storage", "ok", f"all ranks see {folder}")


def locks_between_ranks(folder: Path, world: World) -> Finding:
    """Say whether a lock that the main rank holds keeps out the others. Collective."""
    lock, seen = folder / f"{PROBE}.lock", True
    if world.is_main:
        with held(lock, wait=True):
            dist.barrier()
            dist.barrier()
    else:
        dist.barrier()
        seen = is_held(lock)
        dist.barrier()
    blind = any_rank(not seen, world)
    if world.is_main:
        lock.unlink(missing_ok=True)
    if not blind:
        return Finding("locks between ranks", "ok", "a lock of one rank keeps out the others")
    to_do = "mount with `flock`, not `localflock` or `nolock`: else two runs could share a folder"
    return Finding("locks between ranks", "note", "each node has locks of its own", to_do)


def read_speed(folder: Path, world: World, needed: float | None = None) -> Finding:
    """Measure how fast all ranks at once read, each a file that it has written. Collective.

    No other rank has read it, so no memory of a machine has it.

    Args:
        folder: Where data lie, or where something can be written.
        world: The ranks.
        needed: Bytes/s that the run reads; None if nobody knows.
    """
    probe = folder / f"{PROBE}_{socket.gethostname()}_{world.rank}"
    problem = _problem(lambda: _write(probe))
    dist.barrier()
    started = time.perf_counter()
    problem = problem or _problem(probe.read_bytes)
    mine = (time.perf_counter() - started, problem)
    _problem(probe.unlink)
    ranks = gathered(mine, world)
    bad = next(((rank, words) for rank, (_, words) in enumerate(ranks) if words), None)
    if bad is not None:
        found = f"rank {bad[0]} cannot write and read in {folder}: {bad[1]}"
        return Finding("read speed", "note", found, "see the lines `storage` and `disk`")
    speed = world.world_size * PROBE_BYTES / max(seconds for seconds, _ in ranks)
    found = f"{speed / GB:.2f} GB/s from {folder} by all ranks together{_compared(needed)}"
    if speed >= (needed or 0):
        return Finding("read speed", "ok", found)
    to_do = (
        "the run would wait for its data: copy them to a disk of each node and set data.root there"
    )
    return Finding("read speed", "note", found, to_do)


def _compared(needed: float | None) -> str:
    """Return what a run needs, in words that follow what was measured."""
    return "" if needed is None else f"; this config needs {needed / GB:.2g}"


def _problem(act: Callable[[], object]) -> str:
    """Return why the system refuses something, and nothing if it does not."""
    try:
        act()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _write(probe: Path) -> None:
    with probe.open("wb") as file:
        file.write(os.urandom(MIB) * (PROBE_BYTES // MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # not from memory
