"""From positions of the training stream to batches on the device.

Only a window's own frames are read. A background thread reads the next batches, and resizes and
pads them on the device, while the model computes. Where a window cannot be read, another one takes
its place.

Legend: B windows, T frames, C fields, xy any number of space axes.
"""

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from dpot_scale.config.batch import BatchConfig
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.data.stream.assembly import Assembler, Batch, Window
from dpot_scale.data.stream.mixture import DatasetWindows, Mixture, UnequalWindows, Windows
from dpot_scale.data.stream.patience import Patience
from dpot_scale.data.stream.spans import Span, after_skips
from dpot_scale.data.stream.stand_ins import StandIns
from dpot_scale.errors import DataError, MachineError

PREFETCHED_BATCHES = 2

# A batch with the room that its frames lie in, or why there is none.
_Ready = queue.SimpleQueue["tuple[Batch, Tensor] | Exception"]


def training_windows(
    stores: Mapping[str, DatasetStore],
    frames: int,
    strides: tuple[int, ...] = (1,),
    most_trajectories: Callable[[str], int | None] = lambda _: None,
) -> dict[str, DatasetWindows]:
    """Return the training windows of `frames` frames of each dataset.

    A stride for which a trajectory is too short is not used there.

    Args:
        stores: The datasets.
        frames: Of a window.
        strides: From one of its frames to the next.
        most_trajectories: From the name of a dataset to the number of its trajectories, the first
            ones, that are used at most; None for all.

    Raises:
        DataError: all trajectories of a dataset are too short for every stride.
    """
    windows = {}
    for name, store in stores.items():
        lengths = list(_lengths(store, most_trajectories(name)))
        windows[name] = _windows_of(lengths, frames, strides)
        if len(windows[name]) == 0:
            needed = (frames - 1) * min(strides) + 1
            stored = max((length for _, length in lengths), default=0)
            raise DataError(
                f"dataset {name} stores {stored} frames, but a training window of model.history "
                f"+ objective.unroll x model.horizon = {frames} frames with a stride of "
                f"{min(strides)} needs {needed}"
            )
    return windows


def _lengths(store: DatasetStore, most: int | None) -> Iterator[tuple[int, int]]:
    """Yield how many of the first training trajectories have how many frames, in order."""
    left = store.num_trajectories("train") if most is None else most
    for trajectories, stored in store.lengths("train"):
        if left > 0:
            yield min(trajectories, left), stored
        left -= trajectories


def _windows_of(
    lengths: Sequence[tuple[int, int]], frames: int, strides: tuple[int, ...]
) -> DatasetWindows:
    runs, first = [], 0
    for trajectories, stored in lengths:
        runs.append(Windows.of(trajectories, stored, frames, strides, first))
        first += trajectories
    return runs[0] if len(runs) == 1 else UnequalWindows(runs)


@dataclass(frozen=True, slots=True)
class Share:
    """Which windows of the stream one rank takes.

    Step s covers the positions [s * global_batch, (s + 1) * global_batch) for any number of ranks,
    shifted by what is skipped before them.
    """

    batch: BatchConfig
    rank: int = 0
    world_size: int = 1
    skipped: tuple[Span, ...] = ()

    def positions(self, step: int, micro_step: int) -> range:
        """Return the positions of one micro-batch."""
        windows = self.batch.settled_micro_batch
        first = after_skips(step * self.batch.global_batch, self.skipped)
        first += micro_step * windows * self.world_size
        return range(first + self.rank * windows, first + (self.rank + 1) * windows)

    def micro_batches(self, first_step: int) -> Iterator[range]:
        """Yield the positions of all micro-batches from a step on, without end."""
        micro_steps = range(self.batch.accumulation_steps(self.world_size))
        for step in itertools.count(first_step):
            for micro_step in micro_steps:
                yield self.positions(step, micro_step)


class BatchStream:
    """The micro-batches of one rank, from any step on.

    Args:
        stores: The datasets of the mixture, whose training split is read.
        mixture: Decides which window is where.
        share: Which windows this rank takes.
        assembler: Makes batches of them.
        frames: Frames of a window, history and targets.
        stand_ins: Of each position whose window is known to be unreadable: that of the window
            which is read in its place.
    """

    def __init__(
        self,
        stores: Mapping[str, DatasetStore],
        mixture: Mixture,
        share: Share,
        assembler: Assembler,
        frames: int,
        stand_ins: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.stores = stores
        self.mixture = mixture
        self.share = share
        self.frames = frames
        self.wait_seconds = 0.0  # how long the consumer has waited for data
        self._assembler = assembler
        self._stand_ins = StandIns(
            self._window, assembler, frames, share.batch.global_batch, share.skipped, stand_ins
        )
        # What frames are put into, again and again; None ends the reader.
        self._free: queue.SimpleQueue[Tensor | None] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None
        self._closing = threading.Event()
        self._patience = Patience(self._closing.wait)

    def start(self, first_step: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches without end, from those of a step on.

        The frames of a batch are overwritten once the next one is asked for.
        """
        ready: _Ready = queue.SimpleQueue()
        for _ in range(1 + PREFETCHED_BATCHES):
            self._free.put(self._room())
        self._reader = threading.Thread(
            target=self._read_ahead, args=(first_step, ready), name="window reader", daemon=True
        )
        self._reader.start()
        while True:
            before = time.perf_counter()
            item = ready.get()
            self.wait_seconds += time.perf_counter() - before
            if isinstance(item, Exception):
                raise item
            batch, room = item
            yield batch
            self._free.put(room)

    def void_batch(self) -> Batch:
        """Return a micro-batch of NaN, which no gradient survives: in place of one that is bad."""
        windows = self.share.batch.settled_micro_batch
        frames_BTCxy = self._assembler.empty(windows, self.frames)
        channels = frames_BTCxy.shape[2]
        return Batch(
            frames_BTCxy=frames_BTCxy.fill_(torch.nan),
            scored_BC=frames_BTCxy.new_ones(windows, channels, dtype=torch.bool),
            conditions_BK=self._assembler.unknown_conditions(windows),
            positions=(0,) * windows,
        )

    def close(self) -> None:
        """End the background thread."""
        self._closing.set()
        self._free.put(None)
        if self._reader is not None:
            self._reader.join()

    def _read_ahead(self, first_step: int, ready: _Ready) -> None:
        """Make batches in order until the stream is closed; an error goes to the consumer."""
        try:
            device = self._assembler.device
            if device.type == "cuda":
                torch.cuda.set_device(device)  # a new thread begins with the first one
            for positions in self.share.micro_batches(first_step):
                room = self._free.get()
                if room is None:
                    return
                ready.put((self._batch(positions, room), room))
        except Exception as error:
            ready.put(error)

    def _batch(self, positions: Sequence[int], room: Tensor) -> Batch:
        """Return a micro-batch; what cannot be read, from files opened anew either, is replaced.

        Raises:
            MachineError: what could not be read may be intact.
            DataError: there is nothing to replace it.
        """
        with suppress(DataError, MachineError):
            return self._patience.read(partial(self._assembled, positions, room))
        found = self._stand_ins.find(positions)
        return replace(self._assembled(positions, room), quarantined=tuple(found))

    def _assembled(self, positions: Sequence[int], room: Tensor) -> Batch:
        windows = self._stand_ins.windows(positions)
        return self._assembler.batch(windows, self._part_for(windows, room), positions)

    def _room(self) -> Tensor:
        """Return room for a micro-batch on any grid that there is, as a flat tensor."""
        spaces = {self._assembler.space_of(store) for store in self.stores.values()}
        return self._assembler.empty(
            self.share.batch.settled_micro_batch, self.frames, max(spaces, key=math.prod)
        ).flatten()

    def _part_for(self, windows: Sequence[Window], room: Tensor) -> Tensor:
        """Return the part of a room that windows of one grid need, (B, T, C, *space)."""
        spaces = {self._assembler.space_of(window.store) for window in windows}
        assert len(spaces) == 1, f"a micro-batch has windows of several grids: {spaces}"
        shape = (len(windows), self.frames, self._assembler.model.channels, *spaces.pop())
        return room[: math.prod(shape)].view(shape)

    def _window(self, position: int) -> Window:
        name, cut = self.mixture.locate(position)
        return Window(self.stores[name], "train", cut)
