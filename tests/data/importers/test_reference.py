"""The files that the reference's preprocessing writes, and our own with --compat paper."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.importers.importing import recognise_files
from dpot_scale.data.store.dataset import open_store
from dpot_scale.errors import DataError

UPSTREAM = Path(__file__).parents[2] / "upstream"
REFERENCE = json.loads((UPSTREAM / "reference.json").read_text())
# Genuine file -> the reference's name for what it makes of it, and its axes for ours (T, C, H, W).
TRAJECTORIES = {"pdebench_shallow_water.h5": "swe", "pdebench_diffusion_reaction.h5": "dr"}


def fingerprint(array: np.ndarray) -> dict[str, object]:
    content = np.ascontiguousarray(array).tobytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": sha256}


def in_paper_mode(*files: Path) -> np.ndarray:
    """All trajectories of a dataset, in the reference's layout (N, H, W, T, C)."""
    ((*sources,),), problems = recognise_files(files, paper=True)
    assert problems == []
    read = [
        source.read(slice(0, source.trajectories), slice(0, source.frames)) for source in sources
    ]
    return np.concatenate(read).transpose(0, 3, 4, 1, 2)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("file", TRAJECTORIES)
def test_paper_mode_makes_the_reference_s_bytes_of_pdebench(file: str, number: int) -> None:
    fields_NHWTC = in_paper_mode(UPSTREAM / file)
    expected = REFERENCE["arrays"][f"{TRAJECTORIES[file]}_small/train/data_{number}.hdf5"]
    assert fingerprint(fields_NHWTC[number]) == expected


def test_paper_mode_makes_the_reference_s_bytes_of_fno() -> None:
    fields_NHWTC = in_paper_mode(UPSTREAM / "fno_v73.mat")
    assert fingerprint(fields_NHWTC[..., 0]) == REFERENCE["arrays"]["ns2d_fno_1e-3"]


def test_paper_mode_exchanges_the_axes_of_fno_v73_alone(tmp_path: Path, import_files) -> None:
    import_files(tmp_path, UPSTREAM / "fno_v73.mat", name="ns2d_fno_1e-3", paper=True)
    import_files(tmp_path, UPSTREAM / "fno_v5.mat", paper=True)
    info = open_store(tmp_path, "ns2d_fno_1e-3").info
    assert info.spatial_axes == ("y", "x")
    assert info.source.endswith(", as in the paper")
    assert open_store(tmp_path, "ns2d_fno_1e-5").info.spatial_axes == ("x", "y")


def write_data(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = array
    return path


def test_a_folder_of_trajectories(tmp_path: Path, import_files, stored) -> None:
    """Taken from the reference's folders, the fields are those that --compat paper stores."""
    fields_NHWTC = in_paper_mode(UPSTREAM / "pdebench_diffusion_reaction.h5")
    for number, split in enumerate(("train", "test")):
        write_data(tmp_path / "dr_pdb" / split / "data_0.hdf5", fields_NHWTC[number])
    imported = import_files(tmp_path / "read", tmp_path / "dr_pdb")
    assert (imported.folder.name, imported.train, imported.test) == ("dr_pdb", 1, 1)
    import_files(tmp_path / "made", UPSTREAM / "pdebench_diffusion_reaction.h5", paper=True)
    read, made = (open_store(tmp_path / folder, "dr_pdb") for folder in ("read", "made"))
    assert read.info.spatial_axes == made.info.spatial_axes == ("y", "x")
    assert read.info.channels == made.info.channels
    np.testing.assert_allclose(read.statistics.std, made.statistics.std, rtol=1e-12)
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            stored(tmp_path / "read", "dr_pdb", split), stored(tmp_path / "made", "dr_pdb", split)
        )


def test_a_file_for_each_split_of_fno(tmp_path: Path, import_files, stored) -> None:
    """(N, H, W, T) without channels, named as the reference names them."""
    fields_NHWT = in_paper_mode(UPSTREAM / "fno_v73.mat")[..., 0]
    write_data(tmp_path / "ns2d_1e-3_train.hdf5", fields_NHWT[:2])
    write_data(tmp_path / "ns2d_1e-3_test.hdf5", fields_NHWT[2:])
    imported = import_files(tmp_path / "out", *tmp_path.glob("*.hdf5"))
    assert (imported.folder.name, imported.train, imported.test) == ("ns2d_fno_1e-3", 2, 1)
    train = stored(tmp_path / "out", "ns2d_fno_1e-3", "train")
    np.testing.assert_array_equal(train[:, :, 0], fields_NHWT[:2].transpose(0, 3, 1, 2))


def test_cfdbench_has_a_mask(tmp_path: Path, import_files) -> None:
    fields_NHWTC = np.random.default_rng(0).standard_normal((4, 6, 6, 20, 3))
    fields_NHWTC[..., 2] = np.arange(6)[:, None] > 0
    for split in ("train", "test"):
        write_data(tmp_path / "cfdbench" / f"{split}.hdf5", fields_NHWTC)
    import_files(tmp_path / "out", tmp_path / "cfdbench")
    store = open_store(tmp_path / "out", "cfdbench")
    assert store.info.channels == ("u", "v", "mask")
    assert store.info.scored == (True, True, False)
    window = store.read("test", 3, 5, 10)
    expected = fields_NHWTC[3, ..., 5:15, :].astype(np.float32).transpose(2, 3, 0, 1)
    np.testing.assert_array_equal(window, expected)


def test_a_folder_that_says_nothing_needs_a_name(tmp_path: Path, import_files) -> None:
    fields_NHWTC = in_paper_mode(UPSTREAM / "pdebench_shallow_water.h5")
    for number, split in enumerate(("train", "test")):
        write_data(tmp_path / "mine" / split / "data_0.hdf5", fields_NHWTC[number])
    with pytest.raises(
        DataError, match=r"does not tell which dataset it is .* or swe_pdb, or a name of"
    ):
        import_files(tmp_path / "out", tmp_path / "mine")
    import_files(tmp_path / "out", tmp_path / "mine", name="swe_pdb")
    assert open_store(tmp_path / "out", "swe_pdb").info.channels == ("h",)
    import_files(tmp_path / "out", tmp_path / "mine", name="other")
    assert open_store(tmp_path / "out", "other").info.channels == ("c0",)


def test_a_shape_that_fits_one_dataset_alone_needs_a_name_too(tmp_path: Path, import_files) -> None:
    """(101 frames, 2 channels) may be anything, not only diffusion-reaction."""
    write_data(tmp_path / "mine.hdf5", np.zeros((3, 6, 4, 101, 2)))
    with pytest.raises(DataError, match=r"does not tell which dataset .*: dr_pdb, or a name"):
        import_files(tmp_path / "out", tmp_path / "mine.hdf5")


def test_the_axes_follow_from_a_name_that_the_user_gives(tmp_path: Path, import_files) -> None:
    """Of the sets with this many channels and frames, those of FNO begin with y."""
    fields_NHWTC = np.random.default_rng(0).standard_normal((3, 6, 4, 50, 1))
    path = write_data(tmp_path / "data.hdf5", fields_NHWTC)
    for name, axes in (("ns2d_fno_1e-3", ("y", "x")), ("ns2d_fno_1e-5", ("x", "y"))):
        import_files(tmp_path / "out", path, name=name)
        assert open_store(tmp_path / "out", name).info.spatial_axes == axes


@pytest.mark.parametrize("shape", [(4, 6, 20), (2, 4, 6, 6, 20, 1, 1)])
def test_a_shape_that_the_reference_does_not_write(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = write_data(tmp_path / "odd.hdf5", np.zeros(shape, np.float32))
    with pytest.raises(DataError, match=r"odd\.hdf5: data has shape .*; expected \(H, W, T, C\)"):
        recognise(path)
