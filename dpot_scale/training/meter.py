"""What is measured between two log lines: losses on the device, time and memory on the host."""

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from dpot_scale.data.stream.quarantine import Quarantined
from dpot_scale.engine.collectives import mean_over_ranks, sum_over_ranks
from dpot_scale.engine.engine import Update
from dpot_scale.engine.runtime import World
from dpot_scale.tracking import names
from dpot_scale.training.nodes import Nodes
from dpot_scale.training.slowest import Waits, slowest
from dpot_scale.training.watch import LATE

GIB = 2**30
MOST_UNDONE = 1 + LATE  # the void step, and those until the ranks know of it

# Dense bf16 peaks of the data sheets, FLOP/s, by a part of the device name.
PEAK_FLOPS_PER_SECOND = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


class Measured(NamedTuple):
    """Of one step, over all ranks; neither need be finite where the step was skipped."""

    loss: float
    grad_norm: float


class _Totals(NamedTuple):
    """Of the steps since the last `reduce`."""

    sums: Tensor  # of the losses, the norms and the number of applied steps
    in_a_row: Tensor  # how many of the newest steps were skipped, across intervals
    newest_loss: Tensor
    zero_targets: Tensor  # fields of targets that the loss left out
    quarantined: tuple[Quarantined, ...] = ()  # windows that this rank could not read
    steps: int = 0
    windows: int = 0
    lr: float = 0.0  # of the newest step


class Meter:
    """Accumulates on the device and reduces over ranks once per log interval.

    `add` never waits for the device; `reduce` is a collective that every rank must call.

    Attributes:
        skipped_in_a_row: How many of the newest steps were skipped, one after the other, across
            intervals, as of the last `reduce`.
        loss_is_finite: Whether the newest loss was, on every rank, as of the last `reduce`.
        measured: The steps of the interval that the last `reduce` ended.
        quarantined: The windows of that interval which this rank could not read.
        any_quarantined: Whether there were some on any rank.
    """

    def __init__(
        self, world: World, wait_seconds: Callable[[], float], waits: Waits | None = None
    ) -> None:
        self.world = world
        self._waits = waits or Waits()  # of this rank, for the others
        self.skipped_in_a_row = 0
        self.loss_is_finite = True
        self.measured: list[Measured] = []
        self.quarantined: tuple[Quarantined, ...] = ()
        self.any_quarantined = False
        self._wait_seconds = wait_seconds
        self._nodes = Nodes(world)
        self._totals: _Totals
        self._before: deque[_Totals] = deque(maxlen=MOST_UNDONE)
        self._each: list[Tensor]  # of each step: its loss and its norm
        self._left_out: Tensor
        self._unread: tuple[Quarantined, ...]
        self._restart(torch.zeros((), device=world.device))

    def leave_out(self, zero_targets: Tensor) -> None:
        """Count what the loss of a micro-batch of the step that comes leaves out."""
        self._left_out = self._left_out + zero_targets

    def could_not_read(self, windows: Sequence[Quarantined]) -> None:
        """Note windows of the step that comes which this rank could not read."""
        self._unread += tuple(windows)

    def add(self, loss: Tensor, update: Update, windows: int, lr: float) -> None:
        """Count one step: its mean loss on this rank, what it did, its windows, its rate."""
        before = self._totals
        values = torch.stack([loss.detach(), update.grad_norm, torch.ones_like(loss)])
        self._before.append(before)
        self._each.append(values[:2])
        self._totals = _Totals(
            # Chosen, not multiplied: those of a skipped step may be NaN.
            before.sums + values.where(update.applied, 0),
            (before.in_a_row + 1).where(update.applied.logical_not(), 0),
            loss.detach(),
            before.zero_targets + self._left_out,
            before.quarantined + self._unread,
            before.steps + 1,
            before.windows + windows,
            lr,
        )
        self._left_out, self._unread = torch.zeros_like(self._left_out), ()

    def undo(self, steps: int) -> None:
        """Forget the newest steps, at most `MOST_UNDONE` and none before the last `reduce`."""
        for _ in range(steps):
            self._totals = self._before.pop()
            self._each.pop()

    @property
    def pending(self) -> bool:
        """Return whether steps were counted since the last `reduce`."""
        return self._totals.steps > 0

    def reduce(self, train_flops_per_window: float) -> dict[str, float]:
        """Return the metrics since the last call, averaged over steps and ranks.

        `train/loss` and `train/grad_norm` are means over the steps that changed the weights, and
        absent if none did. `train/skipped_steps` is how many did not, of this interval alone, as
        all else is: the sum of a curve is the number of the run. `train/zero_targets` is how many
        fields of targets the losses left out, where there were some. `system/...` of the machines
        is among them every few seconds, and `time/...` of the slowest rank where there are several.
        """
        totals = self._totals
        assert totals.steps > 0
        seconds = time.perf_counter() - self._started
        waited = self._wait_seconds() - self._waited
        is_broken = totals.newest_loss.isfinite().logical_not()
        counts = torch.stack([totals.in_a_row, is_broken, totals.zero_targets])
        of_host = torch.tensor([waited, len(totals.quarantined)], device=counts.device)
        share = self._nodes.share()
        of_ranks = torch.zeros(self.world.world_size, device=counts.device)
        of_ranks[self.world.rank] = self._waits.share()
        local = torch.cat([totals.sums, counts, of_host, share, of_ranks, *self._each])
        means = mean_over_ranks(local, self.world).tolist()
        loss, grad_norm, applied, in_a_row, broken, zero_targets, *rest = means
        waited_everywhere, quarantined, *rest = rest
        system, rest = rest[: len(share)], rest[len(share) :]
        own_waits, each = rest[: len(of_ranks)], rest[len(of_ranks) :]
        self.measured = [Measured(*one) for one in zip(each[::2], each[1::2], strict=True)]
        self.skipped_in_a_row, self.loss_is_finite = round(in_a_row), broken == 0
        self.quarantined, self.any_quarantined = totals.quarantined, quarantined > 0
        metrics = {}
        if applied:
            metrics = {names.LOSS: loss / applied, names.GRADIENT_NORM: grad_norm / applied}
        if zero_targets:
            metrics[names.ZERO_TARGETS] = zero_targets * self.world.world_size
        metrics |= {
            names.LEARNING_RATE: totals.lr,
            names.SKIPPED_STEPS: totals.steps - applied,
            names.WINDOWS_PER_SECOND: totals.windows / seconds,
            names.STEP_SECONDS: seconds / totals.steps,
            names.DATA_WAIT_FRACTION: waited_everywhere / seconds,
            names.PEAK_GIB: peak_memory_gib(self.world),
        }
        flops_per_second = totals.windows * train_flops_per_window / seconds
        metrics[names.MODEL_TFLOPS_PER_SECOND] = flops_per_second / 1e12
        if (peak := device_peak(self.world.device)) is not None:
            metrics[names.MFU] = flops_per_second / (peak * self.world.world_size)
        metrics |= self._nodes.metrics([mean * self.world.world_size for mean in system])
        metrics |= slowest([mean * self.world.world_size for mean in own_waits])
        self._restart(totals.in_a_row)
        return metrics

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what happens inside, an evaluation or a checkpoint, out of the speed."""
        before = time.perf_counter()
        yield
        self._started += time.perf_counter() - before

    def _restart(self, in_a_row: Tensor) -> None:
        zero = torch.zeros((), device=self.world.device)
        self._totals = _Totals(torch.zeros(3, device=self.world.device), in_a_row, zero, zero)
        self._left_out, self._unread = zero, ()
        self._before.clear()
        self._each = []
        self._waited = self._wait_seconds()
        self._started = time.perf_counter()


def peak_memory_gib(world: World) -> float:
    """Return the peak memory of all ranks together: GPU memory, or resident memory. Collective."""
    if world.device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated(world.device))
    else:
        peak = _peak_resident_bytes()
    return float(sum_over_ranks(torch.tensor([peak / GIB], dtype=torch.float64), world))


def device_peak(device: torch.device) -> float | None:
    """Return the dense bf16 peak of a known GPU in FLOP/s, else None: MFU needs a denominator."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS_PER_SECOND.items() if part in name), None)


def _peak_resident_bytes() -> float:
    """Return the peak of this process; NaN where too many files are open."""
    status = Path("/proc/self/status")  # Linux; psutil knows the peak only on Windows
    try:
        if status.exists():
            kib = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
            if kib:
                return float(kib[1]) * 1024
        return float(psutil.Process().memory_info().rss)
    except OSError:
        return math.nan
