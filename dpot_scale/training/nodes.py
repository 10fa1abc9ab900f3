"""What the machines of a run do: their cores, memory, disks, network and GPUs.

A rank measures at most every few seconds, and what it found goes with what the ranks reduce at each
log anyway. So there is neither a thread nor another wait for the device.
"""

import math
import time
from contextlib import suppress
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from dpot_scale.engine.collectives import sum_over_ranks
from dpot_scale.engine.runtime import World
from dpot_scale.tracking.names import system_key

SAMPLE_SECONDS = 10.0  # between two samples, at least
LOOPBACK = "lo"  # carries what stays on the machine
MIB, GIB = 2**20, 2**30


class _Bytes(NamedTuple):
    """Bytes that passed since the machine was started."""

    network: int
    disk: int


class Nodes:
    """Samples the machines of all ranks. Collective: every rank makes one.

    The first rank of a machine measures the machine, and each rank its GPU.
    """

    def __init__(self, world: World) -> None:
        first = torch.zeros(world.world_size)
        first[world.rank] = world.local_rank == 0
        # Launchers number the ranks of a machine one after the other.
        node_of = (sum_over_ranks(first, world).cumsum(0) - 1).clamp(min=0)
        self._nodes = int(node_of[-1]) + 1
        self._node = int(node_of[world.rank])
        self._ranks_here = int((node_of == self._node).sum())
        self._measures_machine = world.local_rank == 0
        self._device = world.device
        self._names = ["cpu_percent", "memory_gib", "network_mib_per_second", "disk_mib_per_second"]
        if world.device.type == "cuda":
            self._names += ["gpu_percent", "gpu_memory_gib"]
        self._newest = torch.zeros(self._nodes, len(self._names), device=world.device)
        self._is_new = False
        self._due = 0.0  # the first one with the first log
        self._started, self._passed = time.monotonic(), _passed()
        psutil.cpu_percent()  # counts from here

    def share(self) -> Tensor:
        """Return the part of this rank in the newest sample (nodes * values): parts add up."""
        now = time.monotonic()
        self._is_new = now >= self._due
        if self._is_new:
            mine = [*self._of_machine(now), *self._of_gpu()]
            self._newest[self._node] = torch.tensor(mine, device=self._device)
            self._due = now + SAMPLE_SECONDS
        return self._newest.flatten()

    def metrics(self, total: list[float]) -> dict[str, float]:
        """Return the sum of the shares as metrics; none if this rank has not measured anew.

        What a machine does not tell is left out.
        """
        if not self._is_new:
            return {}
        keys = [system_key(node, name) for node in range(self._nodes) for name in self._names]
        found = zip(keys, total, strict=True)
        return {key: value for key, value in found if math.isfinite(value)}

    def _of_machine(self, now: float) -> list[float]:
        if not self._measures_machine:
            return [0.0] * 4
        try:
            passed, memory = _passed(), psutil.virtual_memory()
            busy = psutil.cpu_percent()
        except OSError:  # too many open files
            return [math.nan] * 4
        seconds = max(now - self._started, 1e-3)
        found = [
            busy,
            (memory.total - memory.available) / GIB,
            (passed.network - self._passed.network) / MIB / seconds,
            (passed.disk - self._passed.disk) / MIB / seconds,
        ]
        self._started, self._passed = now, passed
        return found

    def _of_gpu(self) -> list[float]:
        """Return how busy the GPU was in the last second, as part of a mean, and its memory."""
        if self._device.type != "cuda":
            return []
        busy = math.nan
        with suppress(Exception):  # NVML does not tell it of a part of a GPU, or is not there
            busy = torch.cuda.utilization(self._device) / self._ranks_here
        free, total = torch.cuda.mem_get_info(self._device)
        return [busy, (total - free) / GIB]


def _passed() -> _Bytes:
    """Return what networks and disks of this machine moved so far, both ways."""
    networks = psutil.net_io_counters(pernic=True).items()
    network = sum(n.bytes_sent + n.bytes_recv for name, n in networks if name != LOOPBACK)
    disk = psutil.disk_io_counters()  # None in some containers
    return _Bytes(network, disk.read_bytes + disk.write_bytes if disk else 0)
