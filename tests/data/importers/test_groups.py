"""One bad group among ten: nine are imported, and the other one is named."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpot_scale.data.store.dataset import SPLITS, open_store
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.prepare import main

GROUPS = 10
SHAPE = (5, 8, 6, 2)  # (T, y, x, C)


def write(path: Path, damage: Callable[[h5py.File], None]) -> Path:
    noise = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for seed in range(GROUPS):
            group = f"{seed:04d}"
            file.create_dataset(
                f"{group}/data",
                data=noise.standard_normal(SHAPE).astype(np.float32),
                chunks=(1, 8, 6, 2),
                compression="lzf",
            )
            for axis, points in zip("tyx", SHAPE, strict=False):
                file[f"{group}/grid/{axis}"] = np.arange(points, dtype=np.float32) + 0.5
        damage(file)
    return path


def replace(file: h5py.File, name: str, values: object) -> None:
    del file[name]
    file[name] = values


DAMAGES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "no data": (lambda file: file.__delitem__("0003/data"), "group 0003 holds no data"),
    "no grid": (lambda file: file.__delitem__("0000/grid/y"), "group 0000 has no grid/y"),
    "no group": (lambda file: replace(file, "0003", np.zeros(3)), "group 0003 holds no data"),
    "nowhere": (
        lambda file: (file.__delitem__("0003"), file.__setitem__("0003", h5py.SoftLink("/x"))),
        "group 0003 is damaged",
    ),
    "shape": (
        lambda file: replace(file, "0000/data", np.zeros((4, 8, 6, 2))),
        r"group 0000 has data of shape (4, 8, 6, 2), and 0001 (5, 8, 6, 2)",
    ),
    "times": (
        lambda file: file["0000/grid/t"].__setitem__(2, 0.1),
        "group 0000 has another grid or other times than 0001",
    ),
    "nan": (lambda file: file["0003/data"].__setitem__((2, 1, 1, 0), np.nan), "(group 0003)"),
}


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_one_bad_group_among_ten(damage: str, link: bool, tmp_path: Path, capsys) -> None:
    make, words = DAMAGES[damage]
    file = write(tmp_path / "133017", make)
    root = tmp_path / "data"
    command = ["import", str(file), "--out", str(root), *(["--link"] if link else [])]
    assert main(command) == 1
    captured = capsys.readouterr()
    (error,) = captured.err.splitlines()
    assert words in error
    assert str(file) in error
    assert f"1 of 1 files are in {root}, 1 failed" in captured.out
    store = open_store(root, "dr_pdb")
    bad = int(words[words.index("0") :][:4])
    seeds = [int(seed) for split in SPLITS for seed in store.parameters(split).get("seed", ())]
    assert seeds == [seed for seed in range(GROUPS) if seed != bad]
    with h5py.File(file) as content:
        for number, seed in enumerate(seeds[:8]):
            expected = content[f"{seed:04d}/data"][()].transpose(0, 3, 2, 1)
            np.testing.assert_array_equal(store.read("train", number, 0, 5), expected)
    problems = verify_dataset(store).problems
    assert [problem for problem in problems if "begin as PDEBench" not in problem] == []


def test_a_group_that_cannot_be_read(tmp_path: Path, capsys) -> None:
    """Its chunks are damaged: the headers say nothing of it."""
    file = write(tmp_path / "133017", lambda _: None)
    with h5py.File(file) as content:
        chunk = content["0004/data"].id.get_chunk_info(2)
    with file.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    assert main(["import", str(file), "--out", str(tmp_path / "data")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{file}: 1 of 10 trajectories left out (group 0004): " in error
    assert open_store(tmp_path / "data", "dr_pdb").num_trajectories("train") == 8


def test_several_bad_groups_are_one_sentence_and_half_of_them_too_many(
    tmp_path: Path, capsys
) -> None:
    def lose(*groups: int) -> Callable[[h5py.File], None]:
        return lambda file: [file.__delitem__(f"{group:04d}/data") for group in groups]

    some = write(tmp_path / "some", lose(1, 4, 7))
    assert main(["import", str(some), "--out", str(tmp_path / "a")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "3 of 10 groups left out: group 0001 holds no data" in error
    half = write(tmp_path / "half", lose(0, 1, 2, 3, 4))
    assert main(["import", str(half), "--out", str(tmp_path / "b")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "group 0000 holds no data" in error
    assert not (tmp_path / "b").exists()


def test_one_bad_trajectory_of_an_array(tmp_path: Path, write_flow, capsys) -> None:
    """Fields (N, T, x, y), which have no groups: the number of the trajectory is its name."""
    file = write_flow(tmp_path / "164691", M=1.0, eta=0.1, zeta=0.1, trajectories=10)
    with h5py.File(file, "r+") as content:
        content["pressure"][6, 3, 2, 2] = np.inf
        expected = np.delete(content["Vx"][()], 6, axis=0)
    assert main(["import", str(file), "--out", str(tmp_path / "data")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{file}: 1 of 10 trajectories left out (trajectory 6): " in error
    store = open_store(tmp_path / "data", "ns2d_pdb_M1_eta1e-1_zeta1e-1")
    assert (store.num_trajectories("train"), store.num_trajectories("test")) == (8, 1)
    rows = [store.read("train", row, 0, 5)[:, 0] for row in range(8)]
    np.testing.assert_array_equal(rows, expected[:8])

    assert main(["import", str(file), "--out", str(tmp_path / "data")]) == 1
    captured = capsys.readouterr()
    assert f"already holds a part of {file}; nothing to do" in captured.out
    assert "is without what was damaged when it was imported; to see what, remove" in captured.err


def test_one_bad_trajectory_of_a_test_split_alone(tmp_path: Path, write_well, capsys) -> None:
    file = write_well(tmp_path / "flow" / "test" / "a.hdf5", trajectories=3)
    with h5py.File(file, "r+") as content:
        content["t0_fields/density"][1, 2, 3, 3] = np.nan
    assert main(["import", str(file), "--out", str(tmp_path / "data")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{file}: 1 of 3 trajectories left out (trajectory 1): " in error
    store = open_store(tmp_path / "data", "porous_flow")
    assert store.is_for_evaluation
    assert store.num_trajectories("test") == 2
