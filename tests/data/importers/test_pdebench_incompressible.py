"""PDEBench's incompressible flow, in the layout of ns_incom_inhom_2d_512-*.h5."""

import contextlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.store.dataset import open_store
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.errors import DataError

NAME = "ns2d_incom_pdb"


def write(path: Path, *, trajectories: int = 4, seed: int = 0, **changes: np.ndarray) -> np.ndarray:
    """Write a file as the generator does, compressed frame by frame; return (N, T, C, x, y)."""
    frames, grid = 7, (6, 5)
    noise = np.random.default_rng(seed)
    arrays = {
        "velocity": noise.standard_normal((trajectories, frames, *grid, 2)),
        "particles": noise.standard_normal((trajectories, frames, *grid, 1)),
        "force": noise.standard_normal((trajectories, *grid, 2)),
        "t": np.tile(np.arange(frames) * np.float32(0.005), (trajectories, 1)),
    }
    arrays = {name: values.astype(np.float32) for name, values in (arrays | changes).items()}
    with h5py.File(path, "w") as file:
        file.attrs["config"] = "sim_name: ns_incom_inhom_2d_512\nNU: 0.01\n"
        file.attrs["latestIndex"] = frames - 1
        for name, values in arrays.items():
            chunks = (1, 1, *values.shape[2:])
            file.create_dataset(name, data=values, chunks=chunks, compression="lzf", shuffle=True)
    force = np.broadcast_to(arrays["force"][:, None], arrays["velocity"].shape)
    both = np.concatenate([arrays["velocity"], arrays["particles"], force], axis=-1)
    return np.moveaxis(both, -1, 2)


@pytest.mark.parametrize("link", [False, True])
def test_all_files_are_one_dataset(link: bool, tmp_path: Path, import_files, stored) -> None:
    """In the order of their numbers, with the last tenth of all trajectories for the test."""
    fields = [
        write(tmp_path / f"ns_incom_inhom_2d_512-{seed}.h5", seed=seed) for seed in (0, 2, 10)
    ]
    imported = import_files(tmp_path / "data", *tmp_path.glob("*.h5"), link=link)
    assert (imported.folder.name, imported.train, imported.test) == (NAME, 11, 1)
    fields_NTCxy = np.concatenate(fields)
    np.testing.assert_array_equal(stored(tmp_path / "data", NAME, "train"), fields_NTCxy[:11])
    np.testing.assert_array_equal(stored(tmp_path / "data", NAME, "test"), fields_NTCxy[11:])
    store = open_store(tmp_path / "data", NAME)
    assert verify_dataset(store).problems == []
    assert store.info.channels == ("vx", "vy", "particles", "force_x", "force_y")
    assert store.info.scored == (True, True, True, False, False)
    assert (store.info.frame_interval, store.info.domain_length) == (0.005, (1.0, 1.0))


def test_the_name_of_a_file_decides_nothing(tmp_path: Path) -> None:
    write(tmp_path / "133280")
    (source,) = recognise(tmp_path / "133280")
    assert source.describe() == (
        "PDEBench incompressible flow: 4 trajectories of 7 frames of vx, vy, particles, force_x, "
        "force_y at 6 x 5"
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"force": np.zeros((4, 6, 4, 2))}, "the arrays have shapes .*expected velocity"),
        ({"particles": np.zeros((4, 7, 6, 5, 2))}, "the arrays have shapes .*expected velocity"),
        ({"velocity": np.zeros((4, 7, 6, 5))}, "the arrays have shapes .*expected velocity"),
        ({"t": np.tile([0, 1, 2, 3, 0, 0, 0], (4, 1))}, "are not evenly spaced in time"),
        ({"t": np.outer([1, 1, 1, 2], np.arange(7))}, "differ in the time between their frames"),
    ],
)
def test_arrays_that_do_not_fit(changes, sentence: str, tmp_path: Path) -> None:
    with contextlib.suppress(ValueError):  # of the array that the other tests compare with
        write(tmp_path / "a.h5", **changes)
    with pytest.raises(DataError, match=sentence):
        recognise(tmp_path / "a.h5")
