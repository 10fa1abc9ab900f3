"""FNO files: containers, conversions, physical orientation, blocks, names and what can be wrong."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from dpot_scale.data.generation.solvers.navier_stokes import NavierStokes
from dpot_scale.data.importers import transfer
from dpot_scale.data.importers.formats import recognise as recognise_all
from dpot_scale.data.importers.importing import Imported, Options, import_dataset
from dpot_scale.data.importers.source import Source
from dpot_scale.data.store.dataset import Split, open_store
from dpot_scale.errors import DataError

UPSTREAM = Path(__file__).parents[2] / "upstream"
V5 = UPSTREAM / "fno_v5.mat"
V73 = UPSTREAM / "fno_v73.mat"


def recognise(path: Path) -> Source:
    (found,) = recognise_all(path)
    if isinstance(found, DataError):
        raise found
    return found


def whole(source: Source) -> np.ndarray:
    return source.read(slice(0, source.trajectories), slice(0, source.frames))


def left_over(root: Path) -> list[Path]:
    """What is in a folder of datasets but for its lock."""
    return [path for path in root.glob("*") if path.name != ".lock"]


def run_import(path: Path, root: Path, name: str | None = None) -> Imported:
    return import_dataset([recognise(path)], Options(root, name), progress=lambda *_: None)


def stored(root: Path, name: str, split: Split) -> np.ndarray:
    """All trajectories of a split, (N, T, x, y)."""
    store = open_store(root, name)
    frames = store.num_frames(split)
    return np.stack(
        [store.read(split, i, 0, frames)[:, 0] for i in range(store.num_trajectories(split))]
    )


def write_v5(path: Path, **arrays: np.ndarray) -> Path:
    scipy.io.savemat(path, arrays)
    return path


def small(trajectories: int = 4, frames: int = 20, grid: int = 4) -> np.ndarray:
    shape = (trajectories, grid, grid, frames)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_what_the_files_hold_is_seen_without_reading_them() -> None:
    v5, v73 = recognise(V5), recognise(V73)
    assert v5.describe() == (
        "FNO Navier-Stokes, MATLAB v5: 2 trajectories of 20 frames of vorticity at 64 x 64"
    )
    assert v73.describe() == (
        "FNO Navier-Stokes, MATLAB v7.3: 3 trajectories of 50 frames of vorticity at 64 x 64"
    )
    assert (v5.frame_interval, v73.frame_interval) == (1.0, 1.0)


def test_v5_is_stored_as_matlab_sees_it(tmp_path: Path) -> None:
    imported = run_import(V5, tmp_path)
    assert (imported.train, imported.test, imported.frames) == (1, 1, 20)
    info = open_store(tmp_path, "ns2d_fno_1e-5").info
    assert (info.equation, info.origin) == ("Navier-Stokes, vorticity, viscosity 1e-5", "imported")
    u_NxyT = scipy.io.loadmat(V5)["u"]
    for split, rows in (("train", slice(0, 1)), ("test", slice(1, 2))):
        expected = u_NxyT[rows].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(stored(tmp_path, "ns2d_fno_1e-5", split), expected)


def test_v73_is_reversed_as_a_whole(tmp_path: Path) -> None:
    imported = run_import(V73, tmp_path, "ns2d_fno_1e-3")
    assert (imported.train, imported.test, imported.frames) == (2, 1, 50)
    with h5py.File(V73) as file:
        u_NxyT = file["u"][()].transpose(3, 2, 1, 0)
    train, test = (stored(tmp_path, "ns2d_fno_1e-3", split) for split in ("train", "test"))
    np.testing.assert_array_equal(np.concatenate([train, test]), u_NxyT.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("path", "name", "viscosity"), [(V5, "ns2d_fno_1e-5", 1e-5), (V73, "ns2d_fno_1e-3", 1e-3)]
)
def test_the_stored_orientation_is_the_physical_one(
    path: Path, name: str, viscosity: float, tmp_path: Path
) -> None:
    """Our solver takes the stored frame 10 to the stored frame 11; mirrored, it does not."""
    run_import(path, tmp_path, name)
    fields_NTxy = torch.from_numpy(stored(tmp_path, name, "train")).double()

    def distance(fields_NTxy: torch.Tensor) -> float:
        start, expected = fields_NTxy[:, 10].contiguous(), fields_NTxy[:, 11]
        step = NavierStokes(viscosity=viscosity).evolve(start, frames=1, frame_interval=1.0)
        return float((step[:, 0, 0] - expected).norm() / expected.norm())

    assert distance(fields_NTxy) < 5e-4  # measured 3e-4
    assert distance(fields_NTxy.mT) > 0.09  # measured 0.25 and 0.11


def test_blocks_are_whole_chunks_and_their_size_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_import(V73, tmp_path / "whole", "ns2d_fno_1e-3")
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 1)
    assert recognise(V73).aligned_to == 2
    done: list[int] = []
    import_dataset(
        [recognise(V73)],
        Options(tmp_path / "blocks", "ns2d_fno_1e-3"),
        progress=lambda _, length: done.append(length),
    )
    trajectory = 50 * 64 * 64 * 4
    assert done == [V73.stat().st_size, 2 * trajectory, trajectory]  # the checksum, then chunks
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            stored(tmp_path / "whole", "ns2d_fno_1e-3", split),
            stored(tmp_path / "blocks", "ns2d_fno_1e-3", split),
        )


@pytest.mark.parametrize("kept", [{"a"}, {"t"}, {"MATLAB_class"}])
def test_v73_files_that_lost_something_on_the_way(kept: set[str], tmp_path: Path) -> None:
    """u with any sign that it comes from MATLAB or from FNO."""
    cut = tmp_path / "cut"
    with h5py.File(V73) as original, h5py.File(cut, "w") as file:
        for name in {"u"} | (kept & {"a", "t"}):
            file[name] = original[name][()]
        if "MATLAB_class" in kept:
            file["u"].attrs["MATLAB_class"] = b"single"
    source = recognise(cut)
    assert (source.trajectories, source.frames, source.frame_interval) == (3, 50, 1.0)
    assert whole(source).shape == (3, 50, 1, 64, 64)


def test_a_matlab_7_file_without_vorticity(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.mat", "w") as file:
        for name in ("lam", "phi"):
            file[name] = np.zeros((4, 4, 3), np.float32)
            file[name].attrs["MATLAB_class"] = b"single"
    with pytest.raises(DataError, match=r"without an array u, .* it holds: lam, phi"):
        recognise(tmp_path / "other.mat")


@pytest.mark.parametrize(
    ("trajectories", "frames", "candidates"),
    [
        (8, 20, ("ns2d_fno_1e-5",)),
        (8, 30, ("ns2d_fno_1e-4",)),
        (10000, 50, ("ns2d_fno_1e-4",)),
        (5000, 50, ("ns2d_fno_1e-3",)),
        (8, 50, ("ns2d_fno_1e-4", "ns2d_fno_1e-3")),
        (8, 200, ()),
    ],
)
def test_the_name_follows_from_the_size_where_it_can(
    trajectories: int, frames: int, candidates: tuple[str, ...], tmp_path: Path
) -> None:
    u = np.zeros((trajectories, 2, 2, frames), np.float32)
    assert recognise(write_v5(tmp_path / "any.name", u=u)).candidates == candidates


def test_the_name_is_asked_for_where_the_content_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--name: ns2d_fno_1e-4, or ns2d_fno_1e-3, or a name of"):
        run_import(V73, tmp_path)
    odd = write_v5(tmp_path / "odd.mat", u=small(frames=7))
    with pytest.raises(DataError, match=r"does not tell .* --name: a name of your own"):
        run_import(odd, tmp_path)
    with pytest.raises(DataError, match=r"cannot be ns2d_fno_1e-5 .* fit: ns2d_fno_1e-4, ns2d_fno"):
        run_import(V73, tmp_path, "ns2d_fno_1e-5")
    assert list(tmp_path.glob("ns2d*")) == []


def test_a_name_of_ones_own(tmp_path: Path) -> None:
    file = write_v5(tmp_path / "odd.mat", u=small(20, frames=7), t=np.arange(7) * 0.25)
    imported = run_import(file, tmp_path, "mine")
    assert (imported.train, imported.test, imported.frames) == (18, 2, 7)
    info = open_store(tmp_path, "mine").info
    assert (info.equation, info.frame_interval) == ("Navier-Stokes, vorticity", 0.25)


def test_of_viscosity_1e_4_the_paper_uses_30_of_50_frames(tmp_path: Path) -> None:
    u = small(3, frames=50)
    imported = run_import(write_v5(tmp_path / "a.mat", u=u), tmp_path, "ns2d_fno_1e-4")
    assert imported.frames == 30
    expected = u[2:].transpose(0, 3, 1, 2)[:, :30]
    np.testing.assert_array_equal(stored(tmp_path, "ns2d_fno_1e-4", "test"), expected)


def test_doubles_are_stored_as_singles(tmp_path: Path) -> None:
    u = small().astype(np.float64) / 3
    run_import(write_v5(tmp_path / "a.mat", u=u), tmp_path)
    expected = u[:3].transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_array_equal(stored(tmp_path, "ns2d_fno_1e-5", "train"), expected)


def with_nan(u: np.ndarray) -> np.ndarray:
    u[2, 1, 1, 13] = np.nan
    return u


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"lam": small(), "phi": small()}, "without an array u, .* it holds: lam, phi"),
        ({"u": small()[0]}, r"u has shape \(4, 4, 20\); .* 4 axes"),
        ({"u": small().astype(np.int32)}, "u holds int32, not floating-point"),
        ({"u": small(), "t": np.arange(1, 5)}, "has 4 times for 20 frames"),
        ({"u": small(), "t": np.arange(20) ** 2}, "not evenly spaced"),
        ({"u": with_nan(small())}, "train trajectory 2 holds NaN .* first in frame 13"),
    ],
)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(
    arrays: dict[str, np.ndarray], sentence: str, tmp_path: Path
) -> None:
    file = write_v5(tmp_path / "bad.mat", **arrays)
    with pytest.raises(DataError, match=sentence) as caught:
        run_import(file, tmp_path / "data")
    assert str(file) in str(caught.value)
    assert left_over(tmp_path / "data") == []


@pytest.mark.parametrize("path", [V5, V73])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.9, 0.999])
def test_a_truncated_file(path: Path, share: float, tmp_path: Path) -> None:
    content = path.read_bytes()
    cut = tmp_path / "cut.mat"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        DataError, match=r"cut\.mat .*(download it again|download complete|of no known format)"
    ):
        run_import(cut, tmp_path / "data", "ns2d_fno_1e-3" if path == V73 else None)
    assert left_over(tmp_path / "data") == []


def test_a_damaged_chunk_is_noticed(tmp_path: Path) -> None:
    with h5py.File(V73) as file:
        chunk = file["u"].id.get_chunk_info(3)
    content = bytearray(V73.read_bytes())
    first = chunk.byte_offset + 512 if content[chunk.byte_offset] != 0x78 else chunk.byte_offset
    content[first + 100 : first + 200] = bytes(100)
    damaged = tmp_path / "damaged.mat"
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged .*; download it again"):
        run_import(damaged, tmp_path / "data", "ns2d_fno_1e-3")
    assert left_over(tmp_path / "data") == []


def save_numpy(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def save_torch(path: Path, array: np.ndarray) -> None:
    torch.save(torch.from_numpy(array), path)


def save_torch_dictionary(path: Path, array: np.ndarray) -> None:
    torch.save({"u": torch.from_numpy(array)}, path)


def save_old_torch(path: Path, array: np.ndarray) -> None:
    torch.save(torch.from_numpy(array), path, _use_new_zipfile_serialization=False)


def save_pickle(path: Path, array: np.ndarray) -> None:
    path.write_bytes(pickle.dumps(array))


def save_old_pickle(path: Path, array: np.ndarray) -> None:
    path.write_bytes(pickle.dumps(array, protocol=2))


@pytest.mark.parametrize(
    "save",
    [save_numpy, save_torch, save_torch_dictionary, save_old_torch, save_pickle, save_old_pickle],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conversions_read_as_the_original(
    save: Callable[[Path, np.ndarray], None], dtype: type, tmp_path: Path
) -> None:
    u = scipy.io.loadmat(V5)["u"].astype(dtype)
    save(tmp_path / "download", u)
    source = recognise(tmp_path / "download")
    assert source.describe().startswith("FNO Navier-Stokes, converted: 2 trajectories of 20 frames")
    assert source.frame_bytes == 64 * 64 * u.itemsize
    with pytest.raises(DataError, match=r"does not tell which dataset .*: ns2d_fno_1e-5, or a"):
        run_import(tmp_path / "download", tmp_path)
    run_import(tmp_path / "download", tmp_path, "ns2d_fno_1e-5")
    run_import(V5, tmp_path / "original")
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            stored(tmp_path, "ns2d_fno_1e-5", split),
            stored(tmp_path / "original", "ns2d_fno_1e-5", split),
        )


@pytest.mark.parametrize(
    ("file", "name", "equation"),
    [
        ("NavierStokes_V1e-5_N1200_T20.npy", None, "Navier-Stokes, vorticity, viscosity 1e-5"),
        ("ns_V1e-5.npz", None, "Navier-Stokes, vorticity, viscosity 1e-5"),
        ("my_vorticity.npy", "mine", "Navier-Stokes, vorticity"),
        ("waves.npy", "waves", "unknown"),
    ],
)
def test_a_bare_array_is_what_its_name_says(
    file: str, name: str | None, equation: str, tmp_path: Path
) -> None:
    """Any field may be (N, x, y, T): it is not taken for vorticity unless something says so."""
    u = scipy.io.loadmat(V5)["u"]
    (np.savez if file.endswith(".npz") else np.save)(tmp_path / file, u)
    info = open_store(tmp_path, run_import(tmp_path / file, tmp_path, name).folder.name).info
    assert info.equation == equation
    assert info.channels == (("c0",) if equation == "unknown" else ("vorticity",))


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "save",
    [
        lambda path, value: path.write_bytes(pickle.dumps(value)),
        lambda path, value: torch.save(value, path),
    ],
)
def test_a_pickle_that_is_more_than_an_array_is_not_run(save, wrapped: bool, tmp_path) -> None:
    evil: object = Evil(tmp_path / "witness")
    save(tmp_path / "evil.pkl", {"u": evil} if wrapped else evil)
    with pytest.raises(
        DataError, match=r"evil\.pkl .*\(it names .*\), which is not opened because it could run an"
    ):
        recognise(tmp_path / "evil.pkl")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (np.array([{}, 1], dtype=object), "damaged, or holds objects instead of numbers"),
        (
            small().astype(np.int64),
            r"holds int64 of shape .*; expected floating-point vorticity .* --layout, which says",
        ),
        (small()[:, :2], r"holds float32 of shape \(4, 2, 4, 20\)"),
        (small()[0], "is of no known format"),
        (np.zeros((4, 0, 0, 20)), "holds nothing"),
    ],
)
def test_an_array_that_is_no_vorticity(content: np.ndarray, sentence: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(DataError, match=rf"a\.npy .*{sentence}"):
        recognise(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "content", [{"u": "text"}, {"u": torch.zeros(2, dtype=torch.bfloat16)}, [torch.zeros(2)]]
)
def test_torch_files_of_other_things(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt holds other things than plain tensors"):
        recognise(tmp_path / "a.pt")


@pytest.mark.parametrize("save", [save_numpy, save_torch, save_old_torch, save_pickle])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_a_truncated_conversion(save, share: float, tmp_path: Path) -> None:
    save(tmp_path / "a", small())
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"damaged|download it again|of no known format"):
        recognise(tmp_path / "a")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_v73_in_chunks_along_the_trajectories(dtype: type, tmp_path: Path) -> None:
    """The layout of the large files: compressed chunks that hold many trajectories each."""
    u_NxyT = np.random.default_rng(0).standard_normal((10, 4, 4, 50)).astype(dtype)
    with h5py.File(tmp_path / "a", "w", userblock_size=512) as file:
        file.create_dataset(
            "u", data=u_NxyT.T, chunks=(7, 2, 2, 4), compression="gzip", shuffle=False
        ).attrs["MATLAB_class"] = np.bytes_({4: b"single", 8: b"double"}[u_NxyT.itemsize])
        file["t"] = np.arange(1.0, 51)[:, None]
    source = recognise(tmp_path / "a")
    assert (source.aligned_to, source.value_bytes) == (4, u_NxyT.itemsize)
    run_import(tmp_path / "a", tmp_path, "ns2d_fno_1e-3")
    train, test = (stored(tmp_path, "ns2d_fno_1e-3", split) for split in ("train", "test"))
    expected = u_NxyT.astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(np.concatenate([train, test]), expected)


def test_one_trajectory_is_for_evaluation_alone(tmp_path: Path) -> None:
    imported = run_import(write_v5(tmp_path / "a.mat", u=small(1)), tmp_path)
    assert imported.trajectories() == {"train": 0, "valid": 0, "test": 1}
    assert open_store(tmp_path, "ns2d_fno_1e-5").is_for_evaluation
    expected = small(1).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(stored(tmp_path, "ns2d_fno_1e-5", "test"), expected)
