"""From positions of the training stream to batches on the device.

Only a window's own frames are read. A background thread reads the next batches, and resizes and
pads them on the device, while the model computes.

Legend: B windows, T frames, C fields, xy any number of space axes.
"""

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dpot_scale.config.data import DataConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import BatchConfig
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.data.stream.assembly import Assembler, Batch, Window
from dpot_scale.data.stream.mixture import Mixture, Windows
from dpot_scale.errors import DataError

PREFETCHED_BATCHES = 2


def training_windows(
    stores: Mapping[str, DatasetStore], frames: int, strides: tuple[int, ...] = (1,)
) -> dict[str, Windows]:
    """Return the training windows of `frames` frames of each dataset.

    A stride for which the trajectories of a dataset are too short is not used there.

    Raises:
        DataError: the trajectories of a dataset are too short for every stride.
    """
    windows = {}
    for name, store in stores.items():
        stored = store.num_frames("train")
        windows[name] = Windows.of(store.num_trajectories("train"), stored, frames, strides)
        if len(windows[name]) == 0:
            needed = (frames - 1) * min(strides) + 1
            raise DataError(
                f"dataset {name} stores {stored} frames, but a training window of model.history "
                f"+ objective.unroll x model.horizon = {frames} frames with a stride of "
                f"{min(strides)} needs {needed}"
            )
    return windows


def positions(batch: BatchConfig, world_size: int, rank: int, step: int, micro_step: int) -> range:
    """Return the positions of the stream that one micro-batch of one rank covers.

    Step s covers [s * global_batch, (s + 1) * global_batch) for every number of ranks.
    """
    windows = batch.settled_micro_batch
    first = step * batch.global_batch + micro_step * windows * world_size
    return range(first + rank * windows, first + (rank + 1) * windows)


class BatchStream:
    """The micro-batches of one rank, from any position of the stream on.

    Args:
        stores: The datasets of the mixture, whose training split is read.
        mixture: Decides which window is where.
        model: The shape of a batch.
        data: What a batch holds beside frames.
        batch: The batch arithmetic.
        frames: Frames of a window, history and targets.
        rank: Of this process.
        world_size: Number of ranks.
        device: Where batches go.
    """

    def __init__(
        self,
        stores: Mapping[str, DatasetStore],
        mixture: Mixture,
        *,
        model: ModelConfig,
        data: DataConfig,
        batch: BatchConfig,
        frames: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self.stores = stores
        self.mixture = mixture
        self.batch = batch
        self.frames = frames
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.wait_seconds = 0.0  # how long the consumer has waited for data
        self._assembler = Assembler(model, data, device)
        # What frames are put into, again and again; None ends the reader.
        self._free: queue.SimpleQueue[Tensor | None] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None

    def start(self, windows_seen: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches without end, from a position of the stream on.

        The frames of a batch are overwritten once the next one is asked for.
        """
        assert windows_seen % self.batch.global_batch == 0
        ready: queue.SimpleQueue[Batch | Exception] = queue.SimpleQueue()
        first_step = windows_seen // self.batch.global_batch
        for _ in range(1 + PREFETCHED_BATCHES):
            self._free.put(self._assembler.empty(self.batch.settled_micro_batch, self.frames))
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
            yield item
            self._free.put(item.frames_BTCxy)

    def void_batch(self) -> Batch:
        """Return a micro-batch of NaN, which no gradient survives: in place of one that is bad."""
        frames_BTCxy = self._assembler.empty(self.batch.settled_micro_batch, self.frames)
        windows, _, channels = frames_BTCxy.shape[:3]
        return Batch(
            frames_BTCxy=frames_BTCxy.fill_(torch.nan),
            scored_BC=torch.ones(windows, channels, dtype=torch.bool, device=self.device),
            labels_B=torch.zeros(windows, dtype=torch.int64, device=self.device),
        )

    def close(self) -> None:
        """End the background thread."""
        self._free.put(None)
        if self._reader is not None:
            self._reader.join()

    def _read_ahead(self, first_step: int, ready: "queue.SimpleQueue[Batch | Exception]") -> None:
        """Make batches in order until the stream is closed; an error goes to the consumer."""
        try:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)  # a new thread begins with the first one
            for micro_batch in self._positions(first_step):
                frames_BTCxy = self._free.get()
                if frames_BTCxy is None:
                    return
                windows = [self._window(position) for position in micro_batch]
                ready.put(self._assembler.batch(windows, frames_BTCxy))
        except Exception as error:
            ready.put(error)

    def _positions(self, first_step: int) -> Iterator[range]:
        micro_steps = self.batch.accumulation_steps(self.world_size)
        for step in itertools.count(first_step):
            for micro_step in range(micro_steps):
                yield positions(self.batch, self.world_size, self.rank, step, micro_step)

    def _window(self, position: int) -> Window:
        name, cut = self.mixture.locate(position)
        return Window(self.stores[name], "train", cut)
