"""From positions of the training stream to batches on the device.

Only a window's own frames are read. They are resized and padded on the device, batch by batch,
while a background thread reads the next ones.

Legend: B windows, T frames, C fields, xy any number of space axes.
"""

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpot_scale.config.schema import BatchConfig
from dpot_scale.data.catalog import DatasetInfo, label_of
from dpot_scale.data.mixture import Mixture
from dpot_scale.data.store import DatasetStore
from dpot_scale.errors import ConfigError, DataError

PREFETCHED_BATCHES = 4
PADDING_VALUE = 1.0  # of channels that a dataset lacks, as published

INTERPOLATION = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of one forward, on the device, in fp32."""

    frames_BTCxy: Tensor
    scored_BC: Tensor  # bool: a real field, not padding or a geometry mask
    labels_B: Tensor  # dataset classes, int64


@dataclass(frozen=True)
class Window:
    """Frames as they are stored, and what they are of."""

    frames_TCxy: NDArray[np.float32]
    info: DatasetInfo


def windows_per_trajectory(stored_frames: int, frames: int, dataset: str) -> int:
    """Return how many windows of `frames` frames can be cut from a trajectory.

    Raises:
        DataError: the trajectory is shorter than one window.
    """
    if stored_frames < frames:
        raise DataError(
            f"dataset {dataset} stores {stored_frames} frames, but a training window needs "
            f"model.history + objective.unroll x model.horizon = {frames}"
        )
    return stored_frames - frames + 1


def training_windows(stores: Mapping[str, DatasetStore], frames: int) -> dict[str, int]:
    """Return how many training windows of `frames` frames each dataset holds."""
    return {
        name: store.num_trajectories("train")
        * windows_per_trajectory(store.num_frames("train"), frames, name)
        for name, store in stores.items()
    }


def positions(batch: BatchConfig, world_size: int, rank: int, step: int, micro_step: int) -> range:
    """Return the positions of the stream that one micro-batch of one rank covers.

    Step s covers [s * global_batch, (s + 1) * global_batch) for every number of ranks.
    """
    first = step * batch.global_batch + micro_step * batch.micro_batch * world_size
    return range(first + rank * batch.micro_batch, first + (rank + 1) * batch.micro_batch)


def assemble(
    windows: Sequence[NDArray[np.float32]],
    infos: Sequence[DatasetInfo],
    *,
    grid: int,
    channels: int,
    device: torch.device,
) -> Batch:
    """Return windows (T, C, *space) of several datasets as one batch on the device.

    Every field is resized to `grid` points per axis, linearly and without antialiasing, and
    missing channels are filled with ones. Windows of one dataset travel and are resized together.

    Raises:
        ConfigError: a dataset has more channels than the model.
    """
    space_dims = len(infos[0].grid)
    frames_BTCxy = torch.full(
        (len(windows), windows[0].shape[0], channels, *[grid] * space_dims),
        PADDING_VALUE,
        device=device,
    )
    scored_BC = torch.zeros(len(windows), channels, dtype=torch.bool)
    for info in dict.fromkeys(infos):
        if len(info.channels) > channels:
            raise ConfigError(
                f"dataset {info.name} has {len(info.channels)} channels; "
                f"model.channels={channels} is too few"
            )
        rows = [i for i, other in enumerate(infos) if other == info]
        stacked = torch.from_numpy(np.stack([windows[i] for i in rows])).to(device)
        fields = len(info.channels)
        frames_BTCxy[rows, :, :fields] = _resized(stacked, grid)
        scored_BC[rows, :fields] = torch.tensor(info.scored)
    labels_B = torch.tensor([label_of(info.name) for info in infos])
    return Batch(
        frames_BTCxy=frames_BTCxy, scored_BC=scored_BC.to(device), labels_B=labels_B.to(device)
    )


def _resized(frames_BTCxy: Tensor, grid: int) -> Tensor:
    space = frames_BTCxy.shape[3:]
    if all(points == grid for points in space):
        return frames_BTCxy
    maps = functional.interpolate(
        frames_BTCxy.flatten(0, 1), size=[grid] * len(space), mode=INTERPOLATION[len(space)]
    )
    return maps.view(*frames_BTCxy.shape[:3], *maps.shape[2:])


class BatchStream:
    """The micro-batches of one rank, from any position of the stream on.

    Args:
        stores: The datasets of the mixture, whose training split is read.
        mixture: Decides which window is where.
        batch: The batch arithmetic.
        frames: Frames of a window, history and targets.
        grid: Points per axis after resizing.
        channels: Channels after padding.
        rank: Of this process.
        world_size: Number of ranks.
        device: Where batches go.
    """

    def __init__(
        self,
        stores: Mapping[str, DatasetStore],
        mixture: Mixture,
        *,
        batch: BatchConfig,
        frames: int,
        grid: int,
        channels: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self.stores = stores
        self.mixture = mixture
        self.batch = batch
        self.frames = frames
        self.grid = grid
        self.channels = channels
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.wait_seconds = 0.0  # how long the consumer has waited for data
        self._stop = threading.Event()
        self._reader: threading.Thread | None = None

    def start(self, windows_seen: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches without end, from a position of the stream on."""
        assert windows_seen % self.batch.global_batch == 0
        ready: queue.Queue[list[Window] | Exception] = queue.Queue(PREFETCHED_BATCHES)
        first_step = windows_seen // self.batch.global_batch
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
            yield self._assemble(item)

    def close(self) -> None:
        """End the background thread."""
        self._stop.set()
        if self._reader is not None:
            self._reader.join()

    def _read_ahead(self, first_step: int, ready: "queue.Queue[list[Window] | Exception]") -> None:
        """Read windows in order until stopped; an error goes to the consumer."""
        try:
            for micro_batch in self._positions(first_step):
                if not self._put(ready, [self._window(position) for position in micro_batch]):
                    return
        except Exception as error:
            self._put(ready, error)

    def _put(
        self,
        ready: "queue.Queue[list[Window] | Exception]",
        item: list[Window] | Exception,
    ) -> bool:
        """Wait for room and put the item; return False once the stream is closed."""
        while not self._stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _positions(self, first_step: int) -> Iterator[range]:
        micro_steps = self.batch.accumulation_steps(self.world_size)
        step = first_step
        while True:
            for micro_step in range(micro_steps):
                yield positions(self.batch, self.world_size, self.rank, step, micro_step)
            step += 1

    def _window(self, position: int) -> Window:
        name, window = self.mixture.locate(position)
        store = self.stores[name]
        per_trajectory = windows_per_trajectory(store.num_frames("train"), self.frames, name)
        trajectory, start = divmod(window, per_trajectory)
        return Window(store.read("train", trajectory, start, self.frames), store.info)

    def _assemble(self, windows: list[Window]) -> Batch:
        return assemble(
            [window.frames_TCxy for window in windows],
            [window.info for window in windows],
            grid=self.grid,
            channels=self.channels,
            device=self.device,
        )
