"""Steady Darcy flow of three publishers: the coefficient, then the solution."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.importers.source import Source
from dpot_scale.data.store.dataset import open_store
from dpot_scale.errors import DataError

NEURALOPERATOR = Path(__file__).parents[2] / "upstream" / "darcy_test_16.pt"


def whole(source: Source) -> np.ndarray:
    return source.read(slice(0, source.trajectories), slice(0, source.frames))


def pairs(trajectories: int = 4, points: int = 5) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0)
    shape = (trajectories, points, points)
    return noise.choice([3.0, 12.0], shape), noise.standard_normal(shape)


def test_neuraloperator(tmp_path: Path, import_files, stored) -> None:
    tensors = torch.load(NEURALOPERATOR, weights_only=True)
    train = tmp_path / "darcy_train_16.pt"
    torch.save({name: tensor[:30] for name, tensor in tensors.items()}, train)
    imported = import_files(tmp_path / "data", NEURALOPERATOR, train)
    assert (imported.folder.name, imported.train, imported.test) == ("darcy_16", 30, 50)
    expected = torch.stack([tensors["x"].float(), tensors["y"]], dim=1)[:, :, None]
    np.testing.assert_array_equal(stored(tmp_path / "data", "darcy_16", "test"), expected)
    info = open_store(tmp_path / "data", "darcy_16").info
    assert (info.channels, info.boundary) == (("coefficient_solution",), "zero")


@pytest.mark.parametrize("beta", [0.01, 1.0, 100.0])
def test_pdebench(beta: float, tmp_path: Path, import_files, stored) -> None:
    nu, solution = (values.astype(np.float32) for values in pairs(20))
    with h5py.File(tmp_path / "133218", "w") as file:
        file["nu"], file["tensor"] = nu, solution[:, None]
        file.attrs["beta"] = beta
    imported = import_files(tmp_path / "data", tmp_path / "133218")
    name = f"darcy_pdb_beta{beta:g}"
    assert (imported.folder.name, imported.train, imported.test) == (name, 18, 2)
    test = stored(tmp_path / "data", name, "test")
    np.testing.assert_array_equal(test, np.stack([nu, solution], axis=1)[18:, :, None])


def test_fno_trains_on_one_file_and_tests_on_the_other(
    tmp_path: Path, import_files, stored
) -> None:
    coefficient, solution = pairs()
    for number in (1, 2):
        file = tmp_path / f"piececonst_r5_N4_smooth{number}.mat"
        scipy.io.savemat(file, {"coeff": coefficient * number, "sol": solution})
    imported = import_files(tmp_path / "data", *tmp_path.glob("*.mat"))
    assert (imported.folder.name, imported.train, imported.test) == ("darcy_fno_r5", 4, 4)
    test = stored(tmp_path / "data", "darcy_fno_r5", "test")[:, :, 0]
    np.testing.assert_array_equal(test[:, 0], coefficient * 2)
    np.testing.assert_array_equal(test[:, 1], solution.astype(np.float32))


def test_one_file_alone_gives_its_last_tenth_to_the_test(tmp_path: Path, import_files) -> None:
    coefficient, solution = pairs(20)
    scipy.io.savemat(tmp_path / "mine.mat", {"coeff": coefficient, "sol": solution})
    imported = import_files(tmp_path / "data", tmp_path / "mine.mat")
    assert (imported.train, imported.test) == (18, 2)


def test_the_older_container_of_torch_reads_the_same(tmp_path: Path) -> None:
    tensors = torch.load(NEURALOPERATOR, weights_only=True)
    old = tmp_path / "old.pt"
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    (read,), (expected,) = recognise(old), recognise(NEURALOPERATOR)
    np.testing.assert_array_equal(whole(read), whole(expected))


@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 5, 5), (4, 5), ()])
def test_a_solution_that_does_not_fit_its_coefficient(shape: tuple[int, ...], tmp_path) -> None:
    for name, coefficient in (("darcy_odd.pt", 0.0), ("odd.pt", False)):
        x = torch.full((4, 5, 5), coefficient)
        torch.save({"x": x, "y": torch.zeros(shape)}, tmp_path / name)
        with pytest.raises(DataError, match=r"odd\.pt: the coefficient has shape .*4, 5, 5"):
            recognise(tmp_path / name)


def write_navier_stokes(folder: Path) -> np.ndarray:
    """neuraloperator's pairs of vorticity: the same layout and keys as its Darcy flow."""
    pairs_N2xy = np.random.default_rng(0).standard_normal((6, 2, 8, 8)).astype(np.float32)
    for split, part in (("train", slice(0, 4)), ("test", slice(4, 6))):
        x, y = (torch.from_numpy(pairs_N2xy[part, i].copy()) for i in range(2))
        torch.save({"x": x, "y": y}, folder / f"nsforcing_{split}_8.pt")
    return pairs_N2xy


def test_pairs_of_another_equation_need_a_name(tmp_path: Path, import_files, stored) -> None:
    pairs_N2xy = write_navier_stokes(tmp_path)
    (source,) = recognise(tmp_path / "nsforcing_test_8.pt")
    assert "Darcy" not in source.describe()
    with pytest.raises(DataError, match=r"does not tell which dataset .*--name: a name of your"):
        import_files(tmp_path / "data", *tmp_path.glob("*.pt"))
    imported = import_files(tmp_path / "data", *tmp_path.glob("*.pt"), name="ns_pairs")
    assert (imported.train, imported.test) == (4, 2)
    info = open_store(tmp_path / "data", "ns_pairs").info
    assert (info.equation, info.channels) == ("unknown", ("input_output",))
    assert info.boundary == "unknown"
    test = stored(tmp_path / "data", "ns_pairs", "test")
    np.testing.assert_array_equal(test, pairs_N2xy[4:, :, None])


@pytest.mark.parametrize("save", [np.savez, torch.save])
def test_any_other_pairs_need_a_name_too(save, tmp_path: Path, import_files) -> None:
    x, y = np.ones((4, 5, 5)), np.zeros((4, 1, 5, 5))
    file = tmp_path / "mine.pt"
    if save is np.savez:
        with file.open("wb") as content:
            np.savez(content, x=x, y=y)
    else:
        torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, file)
    with pytest.raises(DataError, match="does not tell which dataset it is"):
        import_files(tmp_path / "data", file)
    # The user may say that they are Darcy flow.
    import_files(tmp_path / "data", file, name="my_darcy")
    assert open_store(tmp_path / "data", "my_darcy").info.equation == "steady Darcy flow"


def test_x_and_y_that_are_no_pairs_of_fields_are_of_no_known_format(tmp_path: Path) -> None:
    np.savez(tmp_path / "table.npz", x=np.ones((100, 7)), y=np.ones(100))
    with pytest.raises(DataError, match=r"of no known format \(arrays: x float64 \(100, 7\), y"):
        recognise(tmp_path / "table.npz")


def test_a_file_that_says_darcy_in_its_name_is_darcy(tmp_path: Path, import_files) -> None:
    x = torch.from_numpy(pairs(20)[0])
    torch.save({"x": x, "y": x}, tmp_path / "my_Darcy.pt")
    assert import_files(tmp_path / "data", tmp_path / "my_Darcy.pt").folder.name == "darcy_5"
