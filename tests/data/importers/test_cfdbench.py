"""CFDBench: cases in folders and zip files, their segments, masks, splits and what can be wrong."""

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.data.importers.cfdbench_masks import fluid_mask
from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.importers.importing import recognise_files
from dpot_scale.data.importers.source import Source
from dpot_scale.data.store.dataset import SPLITS, open_store
from dpot_scale.errors import DataError
from dpot_scale.prepare import main

UPSTREAM = Path(__file__).parents[2] / "upstream"
RELEASE = UPSTREAM / "cfdbench"
REFERENCE = json.loads((UPSTREAM / "reference.json").read_text())
ZIPS = sorted(RELEASE.rglob("*.zip"))
WITHOUT_DAM = [path for path in ZIPS if path.stem != "dam"]
TUBE = RELEASE / "tube.zip"
CYLINDER = RELEASE / "cylinder" / "bc.zip"
CYLINDER_CASE = {
    "vel_in": 1.0, "density": 10.0, "viscosity": 0.001, "radius": 0.01,
    "x_min": -0.06, "x_max": 0.16, "y_min": -0.06, "y_max": 0.06,
}  # fmt: skip


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder


def write_case(folder: Path, case: dict[str, float], fields: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(case))
    for name in ("u", "v"):
        np.save(folder / f"{name}.npy", fields)
    return folder / "case.json"


def sources_of(*files: Path, paper: bool = False) -> list[Source]:
    """The sources of the one dataset that files hold; what is left out does not matter here."""
    (sources,), _ = recognise_files(files, paper=paper)
    return sources


def case_names(sources: list[Source], problem: str, split: str) -> list[str]:
    chosen = [source for source in sources if source.split == split]
    kinds = [
        [source.parameters[key][0] for key in ("problem", "subset", "case")] for source in chosen
    ]
    return [
        f"{problem}/{subset.decode()}/case{number:04d}"
        for kind, subset, number in kinds
        if kind.decode() == problem
    ]


def test_a_case_becomes_segments_of_20_frames(tmp_path: Path, import_files, stored) -> None:
    import_files(tmp_path / "zip", TUBE)
    store = open_store(tmp_path / "zip", "cfdbench")
    assert store.info.channels == ("u", "v", "mask")
    assert store.info.spatial_axes == ("y", "x")
    test = stored(tmp_path / "zip", "cfdbench", "test")
    folder = unpacked(TUBE, tmp_path) / "tube" / "bc"
    (number,) = set(store.parameters("test")["case"])
    assert number == 2, "as in the reference's split"
    u, v = (np.load(folder / f"case{number:04d}" / f"{name}.npy") for name in ("u", "v"))
    starts = store.parameters("test")["first_frame"]
    assert list(starts) == [0]
    for segment, start in zip(test, starts, strict=True):
        np.testing.assert_array_equal(segment[:, 0], u[start : start + 20].astype(np.float32))
        np.testing.assert_array_equal(segment[:, 1], v[start : start + 20].astype(np.float32))


def test_the_last_segment_ends_with_the_last_frame(tmp_path: Path) -> None:
    frames = np.arange(33, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
    (source,) = recognise(write_case(tmp_path / "case0001", CYLINDER_CASE, frames))
    fields_NTCyx = source.read(slice(0, 2), slice(0, 20))
    assert list(fields_NTCyx[0, :, 0, 0, 0]) == list(range(20))
    assert list(fields_NTCyx[1, :, 0, 0, 0]) == list(range(13, 33))


def test_what_a_zip_is_called_and_whether_it_is_one_does_not_matter(
    tmp_path: Path, import_files, stored
) -> None:
    import_files(tmp_path / "zip", shutil.copy(TUBE, tmp_path / "164687"))
    import_files(tmp_path / "folder", unpacked(TUBE, tmp_path / "unpacked"))
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            stored(tmp_path / "zip", "cfdbench", split),
            stored(tmp_path / "folder", "cfdbench", split),
        )


def test_a_zip_beside_its_unpacked_folder_counts_once(tmp_path: Path) -> None:
    cases = sorted(unpacked(TUBE, tmp_path).rglob("case.json"))
    assert len(sources_of(*cases, TUBE)) == len(sources_of(TUBE)) == len(cases)


def test_both_precisions(tmp_path: Path, import_files, stored) -> None:
    import_files(tmp_path / "double", TUBE)
    folder = unpacked(TUBE, tmp_path / "single")
    for file in folder.rglob("*.npy"):
        np.save(file, np.load(file).astype(np.float32))
    import_files(tmp_path / "data", folder)
    np.testing.assert_array_equal(
        stored(tmp_path / "data", "cfdbench", "train"),
        stored(tmp_path / "double", "cfdbench", "train"),
    )


def test_a_segment_knows_its_case(tmp_path: Path, import_files) -> None:
    import_files(tmp_path, CYLINDER)
    parameters = open_store(tmp_path, "cfdbench").parameters("test")
    assert set(parameters["problem"]) == {b"cylinder"}
    assert set(parameters["subset"]) == {b"bc"}, "which the name of the zip tells"
    assert set(parameters["frame_interval"]) == {0.001}
    np.testing.assert_allclose(parameters["width"], 0.22)
    np.testing.assert_allclose(parameters["height"], 0.12)
    assert list(parameters["first_frame"]) == [0, 20, 40, 60, 80, 83], "of 103 frames"


def test_the_dam_is_a_dataset_of_its_own(tmp_path: Path, import_files) -> None:
    imported = import_files(tmp_path, RELEASE / "dam.zip")
    assert imported.folder.name == "cfdbench_dam"
    store = open_store(tmp_path, "cfdbench_dam")
    assert store.info.equation == "incompressible Navier-Stokes over a dam"
    assert set(store.parameters("train")["barrier_height"]) == {0.1}
    assert (store.read("train", 0, 0, 20)[:, 2] == 0).any(axis=(1, 2)).all()


def test_the_mask_is_stored_once_for_each_segment(tmp_path: Path, import_files, stored) -> None:
    import_files(tmp_path, CYLINDER)
    store = open_store(tmp_path, "cfdbench")
    assert store.info.scored == (True, True, False)
    window = stored(tmp_path, "cfdbench", "test")
    expected = fluid_mask("cylinder", CYLINDER_CASE, (12, 12))
    assert 0 < (expected == 0).sum() < 144
    np.testing.assert_array_equal(window[:, :, 2], np.broadcast_to(expected, (6, 20, 12, 12)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_paper_mode_makes_the_reference_s_bytes(split: str) -> None:
    chosen = [source for source in sources_of(*WITHOUT_DAM, paper=True) if source.split == split]
    fields_NTCyx = np.concatenate(
        [source.read(slice(0, source.trajectories), slice(0, 20)) for source in chosen]
    )
    fields_NHWTC = np.ascontiguousarray(fields_NTCyx.transpose(0, 3, 4, 1, 2))
    expected = REFERENCE["arrays"][f"cfdbench/{split}"]
    assert list(fields_NHWTC.shape) == expected["shape"]
    assert str(fields_NHWTC.dtype) == expected["dtype"]
    assert hashlib.sha256(fields_NHWTC.tobytes()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize("problem", ["cavity", "cylinder", "tube"])
def test_the_splits_are_the_reference_s(problem: str) -> None:
    """By default the cases that it puts aside are the valid split."""
    expected = REFERENCE["cfdbench_split"][problem]
    paper = sources_of(*WITHOUT_DAM, paper=True)
    assert case_names(paper, problem, "train") == expected["train"]
    assert case_names(paper, problem, "test") == expected["test"]
    ours = sources_of(*WITHOUT_DAM)
    left_out = {"cavity/geo/case0135"}  # of another grid
    trained = [name for name in expected["train"] if name not in left_out]
    assert case_names(ours, problem, "train") == trained
    valid = [name for name in expected["dev"] if name not in left_out]
    assert case_names(ours, problem, "valid") == valid
    assert case_names(paper, problem, "valid") == []
    assert case_names(ours, problem, "test") == expected["test"]


def test_the_splits_are_the_reference_s_whatever_the_zips_are_called(tmp_path: Path) -> None:
    for number, path in enumerate(WITHOUT_DAM):
        shutil.copy(path, tmp_path / f"download {number}")
    renamed = sources_of(*sorted(tmp_path.iterdir(), reverse=True), paper=True)
    for problem, expected in REFERENCE["cfdbench_split"].items():
        assert case_names(renamed, problem, "train") == expected["train"]
        assert case_names(renamed, problem, "test") == expected["test"]


def test_a_case_of_another_grid_is_left_out_and_named() -> None:
    _, (problem,) = recognise_files(ZIPS, paper=False)
    assert str(problem).startswith(
        f"{RELEASE / 'cavity.zip' / 'cavity/geo/case0135'} is left out of dataset cfdbench: "
    )
    assert "at 32 x 32" in str(problem)


def test_a_zip_that_points_outside_is_refused(tmp_path: Path) -> None:
    for number, member in enumerate(("../../evil/case.json", "/etc/case.json", "a/../../b/u.npy")):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("case0000/case.json", "{}")
            archive.writestr(member, "{}")
        with pytest.raises(
            DataError, match=rf"{number}\.zip has a member .* outside of its folder"
        ):
            recognise(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.zip", "1.zip", "2.zip"]


def no_velocity(case: Path) -> None:
    (case / "v.npy").unlink()


def other_length(case: Path) -> None:
    np.save(case / "v.npy", np.load(case / "v.npy")[1:])


def other_rank(case: Path) -> None:
    for name in ("u", "v"):
        np.save(case / f"{name}.npy", np.load(case / f"{name}.npy")[..., None])


def objects(case: Path) -> None:
    np.save(case / "u.npy", np.array([{}], dtype=object), allow_pickle=True)


def cut_off(case: Path) -> None:
    (case / "u.npy").write_bytes((case / "u.npy").read_bytes()[:5000])


def no_json(case: Path) -> None:
    (case / "case.json").write_text("{")


def other_problem(case: Path) -> None:
    (case / "case.json").write_text('{"mach": 1}')


def no_number(case: Path) -> None:
    (case / "case.json").write_text('{"vel_in": "fast"}')


def short(case: Path) -> None:
    for name in ("u", "v"):
        np.save(case / f"{name}.npy", np.load(case / f"{name}.npy")[:19])


def no_numbers(case: Path) -> None:
    fields = np.load(case / "u.npy")
    fields[7] = np.nan
    np.save(case / "u.npy", fields)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (no_velocity, r"is damaged or incomplete \(.*v\.npy"),
        (other_length, r"has u and v of shapes \(20, 12, 12\) and \(19, 12, 12\)"),
        (
            other_rank,
            r"shapes \(20, 12, 12, 1\) and .* expected floating-point numbers \(T, y, x\)",
        ),
        (objects, r"has u and v of shapes \(1,\)"),
        (cut_off, "is damaged"),
        (no_json, "is damaged or incomplete"),
        (other_problem, "case.json describes no problem of CFDBench"),
        (no_number, "is damaged or incomplete .*fast"),
        (short, "has 19 frames; needed: 20"),
        (no_numbers, "holds NaN or infinite values, first in frame 7"),
    ],
)
def test_a_bad_case_is_one_sentence_and_the_others_are_imported(
    damage, sentence: str, packed: bool, tmp_path: Path, capsys
) -> None:
    folder = unpacked(TUBE, tmp_path / "download")
    damage(folder / "tube" / "bc" / "case0000")
    if packed:
        shutil.make_archive(str(tmp_path / "tube"), "zip", folder)
        shutil.rmtree(folder)
        folder = tmp_path / "tube.zip"
    assert main(["import", str(folder), "--out", str(tmp_path / "data")]) == 1
    captured = capsys.readouterr()
    (error,) = captured.err.splitlines()
    assert error.startswith("error: ")
    assert "tube/bc/case0000" in error
    assert re.search(sentence, error)
    store = open_store(tmp_path / "data", "cfdbench")
    assert sum(store.num_trajectories(split) for split in SPLITS) == 14
    assert captured.out.splitlines()[-1].endswith("1 failed")
