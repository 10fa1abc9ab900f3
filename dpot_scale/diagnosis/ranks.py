"""Checks that all ranks make together: what they compute, how fast, and what they share."""

import contextlib
import os
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import distributed as dist

from dpot_scale.diagnosis.finding import Finding
from dpot_scale.engine.collectives import sum_over_ranks
from dpot_scale.engine.runtime import World, any_rank
from dpot_scale.errors import UserError
from dpot_scale.files import held, is_held
from dpot_scale.runs.agreement import require_one_folder

MIB, GB = 2**20, 1e9
PROBE = ".doctor_probe"
PROBE_BYTES = 64 * MIB  # read from the storage
MESSAGE_BYTES = {"cpu": 16 * MIB, "cuda": 256 * MIB}
REPEATS = 5
SLOW_GB_PER_SECOND = {"cpu": 0.05, "cuda": 5.0}  # below it a network is not what was paid for
SKEW_SECONDS = 2.0  # beyond it records of two nodes are out of order
REFUSED_SECONDS = 300.0  # beyond it S3 and signed tokens are refused


def ranks_findings(folder: Path, world: World) -> Iterator[Finding]:
    """Yield what the checks of all ranks find, the same on every rank. Collective.

    Args:
        folder: Where results are to lie.
        world: The ranks.
    """
    yield results_of_collectives(world)
    yield speed_of_collectives(world)
    yield clocks(world)
    if world.world_size > 1:
        yield shared_folder(folder, world)
        yield locks_between_ranks(folder, world)
    yield read_speed(folder, world)


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
        return Finding("collectives", "ok", f"right on {n} ranks, by {dist.get_backend()}")
    words = ", ".join(f"{name} on ranks {ranks}" for name, ranks in found.items())
    to_do = (
        "a link or a driver is broken: try without the fast paths (NCCL_P2P_DISABLE=1, then "
        "NCCL_IB_DISABLE=1), and leave out the node that is wrong in every try"
    )
    return Finding("collectives", "stops", f"wrong: {words}", to_do)


def speed_of_collectives(world: World) -> Finding:
    """Measure an all_reduce: the bandwidth that each rank has for messages. Collective."""
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
    if gb_per_second >= SLOW_GB_PER_SECOND[kind]:
        return Finding("bandwidth", "ok", found)
    to_do = (
        "NCCL_DEBUG=INFO says which network is used; NCCL_SOCKET_IFNAME chooses one, and "
        "containers need access to InfiniBand"
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


def read_speed(folder: Path, world: World) -> Finding:
    """Measure how fast all ranks at once read what the main one has written. Collective."""
    probe = folder / PROBE
    if world.is_main:
        with contextlib.suppress(OSError):  # a full disk: the line `disk` says so
            _write(probe)
    dist.barrier()
    started, length = time.perf_counter(), 0
    with contextlib.suppress(OSError):  # the line `shared storage` says so
        length = len(probe.read_bytes())
    speed = length / (time.perf_counter() - started) / GB
    total = sum_over_ranks(torch.tensor([speed], dtype=torch.float64), world).item()
    dist.barrier()
    if world.is_main:
        probe.unlink(missing_ok=True)
    return Finding("read speed", "ok", f"{total:.2f} GB/s from {folder} by all ranks together")


def _write(probe: Path) -> None:
    with probe.open("wb") as file:
        file.write(os.urandom(MIB) * (PROBE_BYTES // MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # not from memory
