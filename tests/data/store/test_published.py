"""PDEBench's files are known by the MD5 that was published of each."""

from pathlib import Path

import pytest

from dpot_scale.data.store import published
from dpot_scale.data.store.overview import verify_datasets
from dpot_scale.data.store.published import (
    PublishedFile,
    check_published,
    look_at_file,
    md5,
    published_files,
    record_files,
)
from dpot_scale.errors import DataError

CONTENT = b"abc"
MD5 = "900150983cd24fb0d6963f7d28e17f72"  # of CONTENT, in RFC 1321


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is published, and one that is not."""
    table = (PublishedFile(MD5, "133017", "2D_diff-react_NA_NA.h5"),)
    monkeypatch.setattr(published, "published_files", lambda: table)
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "133017").write_bytes(CONTENT)
    (folder / "2D_diff-react_NA_NA.h5").write_bytes(CONTENT + b"d")
    return folder


def test_the_files_of_the_paper_are_known() -> None:
    known = {file.number: file for file in published_files()}
    assert len(known) == 375
    assert all(len(bytes.fromhex(file.md5)) == 16 for file in known.values())
    assert known["133017"].name == "2D_diff-react_NA_NA.h5"
    assert known["133017"].md5 == "b8d0b86064193195ddc30c33be5dc949"
    assert known["133021"].md5 == "75d838c47aa410694bdc912ea7f22282"
    for number in ("164687", "164688", "164690", "164691"):
        assert known[number].name.startswith("2D_CFD_Rand_M")


def test_a_file_is_known_by_its_content_whatever_its_name(downloads: Path) -> None:
    assert md5(downloads / "133017") == MD5
    name = "2D_diff-react_NA_NA.h5"
    assert look_at_file(downloads / "133017") == (f"is {name} as PDEBench published it", True)
    sentence, is_published = look_at_file(downloads / name)
    assert not is_published
    assert sentence.endswith(f"and {name} as published {MD5}")
    (downloads / name).rename(downloads / "mine.h5")
    assert "is no file that PDEBench published" in look_at_file(downloads / "mine.h5")[0]


def test_verify_says_what_a_download_is(downloads: Path) -> None:
    assert verify_datasets(downloads / "133017").problems == []
    (problem,) = verify_datasets(downloads / "2D_diff-react_NA_NA.h5").problems
    assert problem.startswith(f"{downloads / '2D_diff-react_NA_NA.h5'} has MD5 ")


def test_a_dataset_says_whether_its_files_were_as_published(
    downloads: Path, make_store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store("dr_pdb")
    assert check_published(store) == ([], [])
    assert record_files(store.folder, [downloads / "133017"]) == []
    assert check_published(store) == ([], ["it was made of 133017 as PDEBench published"])
    changed = downloads / "2D_diff-react_NA_NA.h5"
    (sentence,) = record_files(store.folder, [downloads / "133017", changed])
    assert sentence.startswith(f"{changed.name} is not as PDEBench published it (MD5 ")
    assert check_published(store) == ([], [sentence]), "perhaps a part"
    monkeypatch.setattr(published, "WHOLE", {("dr_pdb", 4): 5})
    assert check_published(store) == ([sentence], [])
    (store.folder / published.RECORD).write_text("{")
    with pytest.raises(DataError, match=r"published\.json cannot be read"):
        check_published(store)
