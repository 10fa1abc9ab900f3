"""Plain arrays whose axes the user names: every container, every order of axes, every split."""

import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dpot_scale.config.load import load_layout
from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.importers.importing import Options
from dpot_scale.data.store.dataset import open_store
from dpot_scale.data.store.digest import dataset_digest
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.errors import DataError
from dpot_scale.prepare import main

AXES = {"N": 5, "T": 4, "C": 2, "X": 6, "Y": 3}
FIELDS_NTCXY = np.random.default_rng(0).standard_normal(tuple(AXES.values())).astype(np.float32)


def turned(layout: str) -> np.ndarray:
    """The fields with other axes; one that is missing has its first point alone."""
    first = tuple(slice(None) if axis in layout else 0 for axis in AXES)
    kept = [axis for axis in AXES if axis in layout]
    return FIELDS_NTCXY[first].transpose([kept.index(axis) for axis in layout])


def expected(layout: str) -> np.ndarray:
    last = [slice(None) if axis in layout else slice(0, 1) for axis in AXES]
    return FIELDS_NTCXY[tuple(last)]


def save(path: Path, array: np.ndarray) -> Path:
    """Write an array into the container that the suffix says."""
    match path.suffix:
        case ".npy":
            np.save(path, array)
        case ".npz":
            np.savez(path, field=array, t=np.arange(4.0))
        case ".packed":
            with path.open("wb") as file:
                np.savez_compressed(file, field=array)
        case ".pt":
            torch.save(torch.from_numpy(np.ascontiguousarray(array)), path)
        case _:
            with h5py.File(path, "w") as file:
                file["group/field"], file["t"] = array, np.arange(4.0)
    return path


def run(*words: object) -> int:
    return main(["import", *map(str, words)])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".packed", ".pt", ".h5"])
@pytest.mark.parametrize(
    "layout", ["NTXYC", "NTCXY", "XYTNC", "NTYXC", "TXYC", "NXYC", "NTXY", "YXT", "XY"]
)
def test_every_order_of_axes_becomes_the_same(suffix: str, layout: str, tmp_path: Path) -> None:
    file = save(tmp_path / f"heat{suffix}", turned(layout))
    (source,) = recognise(file, only=Options(tmp_path, layout=load_layout(layout, {})).only)
    assert source.spatial_axes == ("x", "y")
    whole = source.read(slice(0, source.trajectories), slice(0, source.frames))
    np.testing.assert_array_equal(whole, expected(layout))
    part = source.read(slice(0, 1), slice(source.frames - 1, source.frames))
    np.testing.assert_array_equal(part, expected(layout)[:1, -1:])


def test_three_dimensions(tmp_path: Path, stored) -> None:
    fields_NTXYZC = np.random.default_rng(1).standard_normal((4, 3, 2, 3, 5, 1))
    np.save(tmp_path / "smoke.npy", fields_NTXYZC)
    out = ("--out", tmp_path)
    assert run(tmp_path / "smoke.npy", "--layout", "NTXYZC", "--domain", "1,2,3", *out) == 0
    info = open_store(tmp_path, "smoke").info
    assert (info.grid, info.domain_length, info.channels) == ((2, 3, 5), (1, 2, 3), ("c0",))
    expected_NTCXYZ = np.moveaxis(fields_NTXYZC, -1, 2).astype(np.float32)
    np.testing.assert_array_equal(stored(tmp_path, "smoke", "test"), expected_NTCXYZ[-1:])


def test_the_flags_describe_the_dataset(tmp_path: Path, capsys) -> None:
    file = save(tmp_path / "heat.npy", turned("NTXYC"))
    flags = ("--channels", "a,b", "--dt", "0.1", "--domain", "1,2", "--test-share", "0.4")
    assert run(file, "--layout", "NTXYC", *flags, "--out", tmp_path / "data") == 0
    assert "arrays NTXYC: 5 trajectories of 4 frames of a, b at 6 x 3" in capsys.readouterr().out
    store = open_store(tmp_path / "data", "heat")
    info = store.info
    assert (info.channels, info.frame_interval, info.domain_length) == (("a", "b"), 0.1, (1, 2))
    assert (info.grid, info.equation, info.boundary) == ((6, 3), "unknown", "unknown")
    assert (store.num_trajectories("train"), store.num_trajectories("test")) == (3, 2)
    assert verify_dataset(store).problems == []
    # Again: nothing to do. With other words about the same file: it is another dataset.
    assert run(file, "--layout", "NTXYC", *flags, "--out", tmp_path / "data") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(file, "--layout", "NTXYC", "--out", tmp_path / "data") == 1
    assert "was made from something else" in capsys.readouterr().err


def test_units_are_said_or_stand_in_the_file(tmp_path: Path, capsys) -> None:
    with h5py.File(tmp_path / "flow.h5", "w") as file:
        for name, unit in (("u", "m s-1"), ("p", np.bytes_(b"Pa")), ("q", None)):
            file[name] = turned("NTXY")
            if unit is not None:
                file[name].attrs["units"] = unit
    flags = ["--layout", "NTXY", "--channels", "u,p,q", "--out", tmp_path / "data"]
    assert run(tmp_path / "flow.h5", *flags) == 0
    info = open_store(tmp_path / "data", "flow").info
    assert (info.units, info.length_unit, info.time_unit) == (("m s-1", "Pa", ""), "", "")
    units = ["--units", "m/s,,1", "--length-unit", "km", "--time-unit", "h", "--domain", "4,2"]
    assert run(tmp_path / "flow.h5", *flags, *units, "--name", "said") == 0
    info = open_store(tmp_path / "data", "said").info
    assert (info.units, info.length_unit, info.time_unit) == (("m/s", "", "1"), "km", "h")
    capsys.readouterr()
    for words, sentence in (
        (["--units", "m/s"], "has 3 channels, but --units gives 1: m/s"),
        (["--length-unit", "km"], "length_unit=km is that of no domain"),
    ):
        assert run(tmp_path / "flow.h5", *flags, *words, "--name", "wrong") != 0
        assert sentence in capsys.readouterr().err


def test_without_a_domain_pictures_have_the_proportions_of_the_grid(tmp_path: Path) -> None:
    np.save(tmp_path / "flow.npy", turned("NTXYC"))
    flags = ["--layout", "NTXYC", "--out", tmp_path / "data"]
    assert run(tmp_path / "flow.npy", *flags) == 0
    store = open_store(tmp_path / "data", "flow")
    assert (store.info.domain_length, store.info.ends) == ((1.0, 1.0), ((0.0, 6.0), (0.0, 3.0)))
    assert run(tmp_path / "flow.npy", *flags, "--domain", "1,1", "--name", "square") == 0
    square = open_store(tmp_path / "data", "square")
    assert square.info.ends == ((0.0, 1.0), (0.0, 1.0))
    # Earlier versions wrote no more than what the user had said of the layout.
    for one, points in ((store, (6.0, 3.0)), (square, (1.0, 1.0))):
        index = one.folder / "index.json"
        raw = json.loads(index.read_text())
        before = dataset_digest(read_index(index))
        for key in ("units", "length_unit", "time_unit", "has_lengths"):
            del raw["info"][key]
        index.write_text(json.dumps(raw | {"format": 2}))
        found = read_index(index)
        assert tuple(end for _, end in found.info.ends) == points
        assert dataset_digest(found) == before


def test_a_yaml_file_says_the_same_and_flags_replace_its_keys(tmp_path: Path) -> None:
    file = save(tmp_path / "heat.npy", turned("NTXYC"))
    layout = tmp_path / "heat.yaml"
    layout.write_text("layout: NTXYC\nchannels: [a, b]\ndt: 1e-1\nboundary: periodic\n")
    assert run(file, "--layout", layout, "--dt", "0.5", "--out", tmp_path / "data") == 0
    info = open_store(tmp_path / "data", "heat").info
    assert (info.channels, info.frame_interval, info.boundary) == (("a", "b"), 0.5, "periodic")


def test_the_yaml_file_may_lie_among_the_arrays(tmp_path: Path, capsys) -> None:
    save(tmp_path / "heat.npy", turned("NTXYC"))
    (tmp_path / "heat.yaml").write_text("layout: NTXYC\n")
    assert run(tmp_path, "--layout", tmp_path / "heat.yaml", "--out", tmp_path / "data") == 0
    assert capsys.readouterr().err == ""


def test_channels_may_be_arrays_of_their_own(tmp_path: Path, stored) -> None:
    u, v = (turned("NTCXY")[:, :, i] for i in range(2))
    np.savez(tmp_path / "flow.npz", v=v, u=u, p=u, t=np.arange(4.0))
    flags = ("--layout", "NTXY", "--channels", "u,v", "--out", tmp_path)
    assert run(tmp_path / "flow.npz", *flags) == 0
    np.testing.assert_array_equal(stored(tmp_path, "flow", "train"), FIELDS_NTCXY[:4])


def test_an_array_of_one_channel_beside_one_of_several(tmp_path: Path, stored) -> None:
    with h5py.File(tmp_path / "flow.h5", "w") as file:
        file["velocity"], file["fields/p"] = turned("NTXYC"), turned("NTXY")
    flags = ("--layout", "NTXYC", "--arrays", "velocity,fields/p", "--out", tmp_path)
    assert run(tmp_path / "flow.h5", *flags) == 0
    assert open_store(tmp_path, "flow").info.channels == ("velocity_0", "velocity_1", "p")
    train = stored(tmp_path, "flow", "train")
    np.testing.assert_array_equal(train[:, :, 2], FIELDS_NTCXY[:4, :, 0])


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_it_can_be_linked(suffix: str, tmp_path: Path, stored) -> None:
    file = save(tmp_path / f"heat{suffix}", turned("NTXYC"))
    assert run(file, "--layout", "NTXYC", "--link", "--out", tmp_path / "data") == 0
    np.testing.assert_array_equal(stored(tmp_path / "data", "heat", "train"), FIELDS_NTCXY[:4])
    opened = open_store(tmp_path / "data", "heat")
    assert verify_dataset(opened).problems == []
    opened.read("train", 0, 0, 1)
    os.truncate(file, file.stat().st_size - 400)
    with pytest.raises(DataError, match=f"cannot read {file} "):
        opened.read("train", 0, 0, 1)
    problems = verify_dataset(open_store(tmp_path / "data", "heat")).problems
    assert any("has changed" in problem or "cannot be read" in problem for problem in problems)


def test_what_cannot_be_linked_says_so(tmp_path: Path, capsys) -> None:
    file = save(tmp_path / "heat.npz", turned("NTXYC"))
    assert run(file, "--layout", "NTXYC", "--link", "--out", tmp_path / "data") == 1
    assert "cannot be read as it lies; import it without --link" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names",
    [("heat_train.npy", "heat_test.npy"), ("heat/train/000.npy", "heat/test/000.npy")],
)
def test_files_that_say_their_split(names: tuple[str, ...], tmp_path: Path, stored) -> None:
    for name, part in zip(names, (slice(0, 3), slice(3, 5)), strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / "in" / name, turned("NTXYC")[part])
    assert run(tmp_path / "in", "--layout", "NTXYC", "--out", tmp_path) == 0
    np.testing.assert_array_equal(stored(tmp_path, "heat", "train"), FIELDS_NTCXY[:3])
    np.testing.assert_array_equal(stored(tmp_path, "heat", "test"), FIELDS_NTCXY[3:])


@pytest.mark.parametrize(("share", "train"), [((), 4), (("--test-share", "0.4"), 3)])
def test_one_file_for_each_trajectory(share, train: int, tmp_path: Path, stored) -> None:
    """The last trajectories of all files go to the test, in the order of the numbers."""
    (tmp_path / "in").mkdir()
    for number, fields_TCXY in enumerate(FIELDS_NTCXY):
        save(tmp_path / "in" / f"heat_{number + 8}.npy", fields_TCXY)
    flags = ("--layout", "TCXY", "--name", "heat", "--out", tmp_path)
    assert run(tmp_path / "in", *flags, *share) == 0
    np.testing.assert_array_equal(stored(tmp_path, "heat", "train"), FIELDS_NTCXY[:train])
    np.testing.assert_array_equal(stored(tmp_path, "heat", "test"), FIELDS_NTCXY[train:])


def test_files_of_several_trajectories_share_one_cut(tmp_path: Path, stored) -> None:
    for name, part in (("a_1.npy", slice(0, 4)), ("a_2.npy", slice(4, 5))):
        save(tmp_path / name, turned("NTXYC")[part])
    flags = ("--layout", "NTXYC", "--name", "heat", "--test-share", "0.4", "--out", tmp_path)
    assert run(*tmp_path.glob("*.npy"), *flags) == 0
    np.testing.assert_array_equal(stored(tmp_path, "heat", "test"), FIELDS_NTCXY[3:])


def test_without_a_name_files_are_datasets_of_their_own(tmp_path: Path) -> None:
    for name in ("heat.npy", "wave.npy"):
        save(tmp_path / name, turned("NTXYC"))
    assert run(*tmp_path.glob("*.npy"), "--layout", "NTXYC", "--out", tmp_path / "data") == 0
    assert sorted(path.name for path in (tmp_path / "data").glob("[!.]*")) == ["heat", "wave"]


def test_one_trajectory_is_for_evaluation(tmp_path: Path, stored) -> None:
    save(tmp_path / "heat.npy", turned("TXYC"))
    assert run(tmp_path / "heat.npy", "--layout", "TXYC", "--out", tmp_path) == 0
    np.testing.assert_array_equal(stored(tmp_path, "heat", "test"), FIELDS_NTCXY[:1])


def test_a_file_called_like_a_published_dataset_is_not_taken_for_it(tmp_path, capsys) -> None:
    file = save(tmp_path / "swe_pdb.npy", turned("NTXYC"))
    assert run(file, "--layout", "NTXYC", "--out", tmp_path / "data") == 1
    assert "say it with --name: a name of your own" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_a_file_larger_than_memory_is_read_in_pieces(suffix: str, tmp_path: Path) -> None:
    """It has 800 GB, of which the disk holds nothing."""
    shape, path = (4000, 100, 512, 512, 2), tmp_path / f"big{suffix}"
    if suffix == ".npy":
        np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("u", shape, np.float32)
    (source,) = recognise(path, only=Options(tmp_path, layout=load_layout("NTXYC", {})).only)
    piece = source.read(slice(3999, 4000), slice(99, 100))
    assert piece.shape == (1, 1, 2, 512, 512)
    assert not piece.any()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--layout NTXC", "layout=NTXC has the space axes X; fields have X and Y, or X, Y and Z"),
        ("--layout NTXYY", "layout=NTXYY names an axis twice"),
        ("--layout NTXYQ", "layout='NTXYQ'"),
        ("--layout NTXYC --dt 0", "dt='0': must be more than 0"),
        ("--layout NTXYC --domain 1", r"domain=\[1.0\] gives 1 lengths; .* the 2 space axes XY"),
        ("--layout NTXYC --domain 1,a", "domain.1='a': must be a number"),
        ("--layout NTXYC --channels a,a", r"channels=\['a', 'a'\] names one twice"),
        ("--layout NTXYC --test-share 1", "test_share='1': must be less than 1"),
        ("--layout none.yaml", "cannot read config file none.yaml"),
        ("--dt 0.1", "--dt needs --layout"),
        ("--test-share 0.1", "--test-share needs --layout"),
    ],
)
def test_a_layout_that_cannot_be(flags: str, sentence: str, tmp_path: Path, capsys) -> None:
    file = save(tmp_path / "heat.npy", turned("NTXYC"))
    assert run(file, *flags.split(), "--out", tmp_path / "data") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(sentence, err)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            "--layout NTXY",
            " holds no array with the 4 axes NTXY, but field (5, 4, 6, 3, 2), t (4,)",
        ),
        ("--layout NTXYC --channels a", " has 2 channels, but --channels names 1: a"),
        ("--layout NTXYC --arrays a", " has no array a; it holds field (5, 4, 6, 3, 2), t (4,)"),
        ("--layout NTXYC --arrays t", ": t (4,) does not have the 5 axes NTXYC"),
    ],
)
def test_a_layout_that_does_not_fit_the_file(flags, sentence, tmp_path: Path, capsys) -> None:
    file = save(tmp_path / "heat.npz", turned("NTXYC"))
    assert run(file, *flags.split(), "--out", tmp_path / "data") == 1
    assert f"error: {file}{sentence}" in capsys.readouterr().err


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    only = Options(tmp_path, layout=load_layout("NTXY", {})).only
    two = tmp_path / "two.npz"
    np.savez(two, u=turned("NTXY"), v=turned("NTXY"))
    waves = tmp_path / "waves.npy"
    np.save(waves, turned("NTXY") * 1j)
    odd = tmp_path / "odd.npz"
    np.savez(odd, u=turned("NTXY"), v=turned("NTXY")[:, :2])
    text = tmp_path / "notes.txt"
    text.write_text("The arrays are elsewhere.")
    for path, sentence in (
        (two, r"holds several arrays with the 4 axes NTXY: u \(5, 4, 6, 3\), v .* --arrays which"),
        (waves, "its array holds complex64, not real numbers"),
        (text, r"is no \.npy, \.npz, \.pt or HDF5 file, of which --layout speaks"),
    ):
        with pytest.raises(DataError, match=sentence):
            recognise(path, only=only)
    of_both = load_layout("NTXY", {"channels": ["u", "v"]})
    with pytest.raises(DataError, match=r"the arrays differ in shape: u \(5, 4, 6, 3\), v \(5, 2"):
        recognise(odd, only=Options(tmp_path, layout=of_both).only)


def test_without_a_layout_the_message_names_the_page(tmp_path: Path, capsys) -> None:
    file = save(tmp_path / "heat.npy", turned("NTXYC"))
    assert run(file, "--out", tmp_path / "data") == 1
    assert "imported with --layout (see docs/data.md, Plain arrays)" in capsys.readouterr().err
