"""Batches of windows: resized, padded, and with all that goes with their datasets."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional

from dpot_scale.config.data import DataConfig
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream.assembly import Assembler, Batch, Window
from dpot_scale.data.stream.mixture import Cut
from dpot_scale.errors import DataError
from dpot_scale.forecasting.physical import in_physical_units
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.forecaster import Forecast

CPU = torch.device("cpu")
FRAMES = 3


def assembled(
    *windows: tuple[DatasetStore, Cut],
    grid: int,
    channels: int,
    frames: int = FRAMES,
    space_dims: int = 2,
    **data: object,
) -> Batch:
    """Return training windows as a batch of a model of that shape."""
    model = DPOTConfig.model_validate(
        {"grid": grid, "channels": channels, "space_dims": space_dims}
    )
    config = DataConfig.model_validate({"weights": {"any": 1}, **data})
    assembler = Assembler(model, config, CPU)
    room = assembler.empty(len(windows), frames)
    return assembler.batch([Window(store, "train", cut) for store, cut in windows], room)


def test_resizing_a_window_equals_cutting_a_resized_trajectory(make_store, coded) -> None:
    store = make_store("a", channels=("u", "v"), grid=6, frames=8)
    trajectory = torch.from_numpy(coded(0, 1, 8, 2, 6)[0])
    resized = functional.interpolate(
        trajectory, size=(9, 9), mode="bilinear", align_corners=False, antialias=False
    )
    window = (store, Cut(0, 2, 1))
    torch.testing.assert_close(assembled(window, grid=9, channels=2).frames_BTCxy[0], resized[2:5])
    assert torch.equal(assembled(window, grid=6, channels=2).frames_BTCxy[0], trajectory[2:5])


def test_missing_channels_are_ones_and_are_not_scored(stores) -> None:
    windows = [(stores[name], Cut(0, 0, 1)) for name in ("b", "a", "b")]
    batch = assembled(*windows, grid=4, channels=4)
    assert batch.frames_BTCxy.shape == (3, FRAMES, 4, 4, 4)
    both, one = [True, True, False, False], [True, False, False, False]
    assert batch.scored_BC.tolist() == [both, one, both]
    assert bool((batch.frames_BTCxy[1, :, 1:] == 1).all())
    assert bool((batch.frames_BTCxy[0, :, 2:] == 1).all())
    stored = stores["a"].read("train", 0, 0, FRAMES)
    np.testing.assert_array_equal(batch.frames_BTCxy[1, :, :1], stored)
    assert torch.equal(batch.frames_BTCxy[0], batch.frames_BTCxy[2])


def test_three_space_dimensions(describe, tmp_path: Path) -> None:
    info = replace(
        describe("cube"),
        spatial_axes=("x", "y", "z"),
        grid=(4, 4, 4),
        domain_length=(1.0, 1.0, 1.0),
    )
    fields = np.random.default_rng(0).random((1, FRAMES, 1, 4, 4, 4), dtype=np.float32)
    with StoreWriter(tmp_path, info) as writer:
        writer.append("train", fields)
    window = (open_store(tmp_path, "cube"), Cut(0, 0, 1))
    batch = assembled(window, grid=8, channels=2, space_dims=3)
    assert batch.frames_BTCxy.shape == (1, FRAMES, 2, 8, 8, 8)
    assert float(batch.frames_BTCxy[:, :, 0].mean()) == pytest.approx(fields.mean(), abs=0.02)


@pytest.fixture
def obstacle(describe, tmp_path: Path) -> DatasetStore:
    """One trajectory of a field and a mask that is 0 in a corner; v is the same everywhere."""
    info = replace(
        describe("obstacle", ("u", "v", "mask")), scored=(True, True, False), fluid_mask="mask"
    )
    fields = np.random.default_rng(0).random((2, FRAMES, 3, 4, 4), dtype=np.float32)
    fields[:, :, 1] = 7
    fields[:, :, 2] = 1
    fields[:, :, 2, :2, :2] = 0
    with StoreWriter(tmp_path, info) as writer:
        writer.append("train", fields)
    return open_store(tmp_path, "obstacle")


def test_a_mask_is_given_and_not_scored(obstacle) -> None:
    batch = assembled((obstacle, Cut(0, 0, 1)), grid=4, channels=4)
    assert batch.scored_BC.tolist() == [[True, True, False, False]]
    assert bool((batch.frames_BTCxy[0, :, 2, :2, :2] == 0).all())
    assert float(batch.frames_BTCxy[0, :, 2].sum()) == FRAMES * 12
    assert batch.counted_Bxy is None
    assert batch.coefficient_BC is None
    assert batch.scale is None, "a fluid mask is shown as it is"


def test_points_inside_obstacles_do_not_count_where_asked(obstacle, stores) -> None:
    windows = ((obstacle, Cut(1, 0, 1)), (stores["a"], Cut(0, 0, 1)))
    counted = assembled(*windows, grid=4, channels=4, mask_points=True).counted_Bxy
    assert counted is not None
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[:2, :2] = True
    assert torch.equal(counted[0], ~inside)
    assert bool(counted[1].all()), "a dataset without a mask"
    finer = assembled(*windows, grid=8, channels=4, mask_points=True).counted_Bxy
    assert finer is not None
    assert finer[0].sum() == 64 - 9, "a point with some fluid in its interpolation counts"


def test_statistics_of_each_dataset_come_with_its_windows(obstacle, stores) -> None:
    windows = ((obstacle, Cut(0, 0, 1)), (stores["a"], Cut(0, 0, 1)))
    assert assembled(*windows, grid=4, channels=4).scale is None
    scale = assembled(*windows, grid=4, channels=4, normalize="dataset").scale
    assert scale is not None
    found, other = obstacle.statistics, stores["a"].statistics
    means = [[found.mean[0], 7, 0, 0], [other.mean[0], 0, 0, 0]]
    stds = [[found.std[0], 1, 1, 1], [other.std[0], 1, 1, 1]]
    torch.testing.assert_close(scale.mean_BC, torch.tensor(means))
    torch.testing.assert_close(scale.std_BC, torch.tensor(stds))


def store_with(root: Path, info: DatasetInfo, *values: np.ndarray | float) -> DatasetStore:
    """Two trajectories of a field of noise, and channels that are the same in all frames."""
    noise = np.random.default_rng(0)
    fields = np.empty((2, FRAMES, len(info.channels), 4, 4), dtype=np.float32)
    fields[:, :, 0] = noise.standard_normal((2, FRAMES, 4, 4))
    for channel, of_channel in enumerate(values, start=1):
        fields[:, :, channel] = of_channel
    with StoreWriter(root, info) as writer:
        writer.append("train", fields)
    return open_store(root, info.name)


@pytest.fixture
def acoustic(describe, tmp_path: Path) -> DatasetStore:
    """Pressure and, constant in time, a density of 1 with inclusions of 6e5."""
    density = np.where(np.eye(4) > 0, 6e5, 1.0)
    info = replace(describe("acoustic", ("pressure", "density")), scored=(True, False))
    return store_with(tmp_path, info, density)


@pytest.mark.parametrize("normalize", ["none", "dataset"])
def test_a_coefficient_never_reaches_the_model_in_its_own_unit(
    normalize: str, acoustic, stores
) -> None:
    """And a published dataset in the same batch is seen as it is, to the last bit."""
    windows = ((acoustic, Cut(0, 0, 1)), (stores["b"], Cut(0, 0, 1)))
    batch = assembled(*windows, grid=4, channels=3, normalize=normalize)
    assert batch.coefficient_BC is not None
    assert batch.coefficient_BC.tolist() == [[False, True, False], [False, False, False]]
    assert float(batch.frames_BTCxy[0, 0, 1].max()) == 6e5, "physical, as all of a batch"
    seen: list[torch.Tensor] = []

    def model(frames_BTCs: torch.Tensor) -> Forecast:
        seen.append(frames_BTCs)
        return Forecast(frames_BTCs[:, -1:], torch.empty(0))

    forecast = in_physical_units(model, batch)(batch.frames_BTCxy).frames
    torch.testing.assert_close(forecast, batch.frames_BTCxy[:, -1:], rtol=1e-5, atol=0.1)
    density = seen[0][0, :, 1]
    assert float(density.mean()) == pytest.approx(0, abs=1e-6)
    assert float(density.std(correction=0)) == pytest.approx(1)
    if normalize == "none":
        assert torch.equal(seen[0][1], batch.frames_BTCxy[1])
        assert torch.equal(seen[0][0, :, 0], batch.frames_BTCxy[0, :, 0])


def test_a_coefficient_that_is_the_same_everywhere_is_of_order_one(
    describe, tmp_path: Path
) -> None:
    """Also in a trajectory that has another value, whatever rounding left of a deviation."""
    info = replace(
        describe("even", ("u", "density", "zero", "near")), scored=(True, False, False, False)
    )
    near = 1e5 + np.float32(0.0078125) * (np.arange(16).reshape(4, 4) == 5)
    store = store_with(tmp_path, info, 6e5, 0.0, near)
    scale = assembled((store, Cut(0, 0, 1)), grid=4, channels=4).scale
    assert scale is not None
    torch.testing.assert_close(scale.mean_BC, torch.tensor([[0, 6e5, 0, 1e5]]))
    torch.testing.assert_close(scale.std_BC, torch.tensor([[1, 6e5, 1, 1e5]]))


def test_a_mask_of_unknown_meaning_hides_no_points(describe, tmp_path: Path) -> None:
    """It is an input like any other coefficient."""
    info = replace(describe("helmholtz", ("pressure", "mask")), scored=(True, False))
    store = store_with(tmp_path, info, (np.arange(16).reshape(4, 4) == 5).astype(np.float32))
    batch = assembled((store, Cut(0, 0, 1)), grid=4, channels=2, mask_points=True)
    assert batch.counted_Bxy is not None
    assert bool(batch.counted_Bxy.all())
    assert batch.coefficient_BC is not None
    assert batch.coefficient_BC.tolist() == [[False, True]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a", "b"])
def test_values_that_are_not_finite_never_become_a_batch(name: str, value: float, stores) -> None:
    """Named by file, trajectory and frame; a window that does not touch them is fine."""
    store = stores[name]
    with h5py.File(store.folder / store.shards["train"][0].file, "r+") as file:
        file["fields"][2, 3, -1, 1, 2] = value
    assembled((store, Cut(2, 0, 1)), grid=4, channels=2)
    sentence = r"train/shard-00000.h5 holds NaN or infinite values, in train trajectory 2 \(row 2 "
    with pytest.raises(DataError, match=sentence + r"of the file\), first in frame 3 "):
        assembled((store, Cut(2, 1, 1)), grid=4, channels=2)


def test_large_values_are_finite(stores) -> None:
    """Although their sum is not."""
    with h5py.File(stores["a"].folder / stores["a"].shards["train"][0].file, "r+") as file:
        file["fields"][0] = 3e38
    assert bool((assembled((stores["a"], Cut(0, 0, 1)), grid=4, channels=1).frames_BTCxy > 0).all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_equal_those_of_the_cpu(obstacle, stores) -> None:
    config = DataConfig.model_validate(
        {"weights": {"any": 1}, "normalize": "dataset", "mask_points": True}
    )
    windows = [
        Window(obstacle, "train", Cut(1, 0, 1)),
        Window(stores["b"], "train", Cut(2, 0, 2)),
    ]
    found = {}
    for name in ("cpu", "cuda"):
        assembler = Assembler(DPOTConfig(grid=8, channels=4), config, torch.device(name))
        found[name] = assembler.batch(windows, assembler.empty(2, FRAMES))
    on_cpu, on_gpu = found["cpu"], found["cuda"]
    torch.testing.assert_close(on_gpu.frames_BTCxy.cpu(), on_cpu.frames_BTCxy)
    assert torch.equal(on_gpu.counted_Bxy.cpu(), on_cpu.counted_Bxy)
    assert torch.equal(on_gpu.scale.std_BC.cpu(), on_cpu.scale.std_BC)
