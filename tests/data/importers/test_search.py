"""Which files are imported of the files and folders that a user names."""

from pathlib import Path

import pytest

from dpot_scale.data.importers.cfdbench_cases import CASE
from dpot_scale.data.importers.formats import recognise
from dpot_scale.data.importers.search import find_files
from dpot_scale.data.store import folders
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.errors import DataError, UserError


def make(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def names(folder: Path, *paths: Path) -> list[str]:
    found, unreadable = find_files(paths or [folder])
    assert unreadable == []
    return [str(path.relative_to(folder)) for path in found]


def test_files_come_in_order_without_hidden_ones_and_datasets_of_ours(tmp_path: Path) -> None:
    make(tmp_path, "b/2.h5", "b/1.h5", "a/3.h5", ".hidden.h5", ".partial/4.h5")
    make(tmp_path, f"stored/{INDEX}", "stored/train/shard-00000.h5")
    assert names(tmp_path) == ["a/3.h5", "b/1.h5", "b/2.h5"]


def test_a_case_of_cfdbench_is_one_file(tmp_path: Path) -> None:
    make(tmp_path, f"case0000/{CASE}", "case0000/u.npy", "case0000/v.npy")
    assert names(tmp_path) == [f"case0000/{CASE}"]


def test_what_is_named_is_taken_in_the_order_of_the_user(tmp_path: Path) -> None:
    make(tmp_path, "b.h5", ".a.h5")
    assert names(tmp_path, tmp_path / "b.h5", tmp_path / ".a.h5") == ["b.h5", ".a.h5"]


def test_nothing_to_import_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no file or folder {tmp_path}/absent"):
        find_files([tmp_path / "absent"])
    with pytest.raises(UserError, match=f"there is no file to import in {tmp_path}"):
        find_files([tmp_path])


def test_a_folder_that_may_not_be_read_is_named_and_the_others_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a/1.h5", "b/2.h5")
    walk = folders.os.walk

    def without_b(path, onerror, **options):
        for folder, subfolders, files in walk(path, onerror=onerror, **options):
            if Path(folder).name == "b":  # as root reads everything, the error is made here
                onerror(PermissionError(13, "Permission denied", folder))
            else:
                yield folder, subfolders, files

    monkeypatch.setattr(folders.os, "walk", without_b)
    found, unreadable = find_files([tmp_path])
    assert found == [tmp_path / "a" / "1.h5"]
    assert [str(error) for error in unreadable] == [f"cannot read {tmp_path}/b: Permission denied"]


def test_links_to_folders_on_other_disks_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "disk1", "a.h5")
    make(tmp_path / "disk2", "b.h5", "more/c.h5")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / "train").symlink_to(tmp_path / "disk1")
    (downloads / "test").symlink_to(tmp_path / "disk2")
    (downloads / "single.h5").symlink_to(tmp_path / "disk1" / "a.h5")
    assert names(downloads) == ["test/b.h5", "test/more/c.h5", "train/a.h5"]
    (downloads / "train").unlink()
    assert names(downloads) == ["single.h5", "test/b.h5", "test/more/c.h5"]


def test_links_in_a_circle_end_and_no_file_is_taken_twice(tmp_path: Path) -> None:
    make(tmp_path, "a/1.h5", "b/2.h5")
    for link, target in (("a/up", ".."), ("a/b", "../b"), ("b/a", "../a"), ("b/self", ".")):
        (tmp_path / link).symlink_to(target)
    (tmp_path / "z.h5").symlink_to("a/1.h5")
    assert names(tmp_path) == ["a/1.h5", "b/2.h5"]
    assert names(tmp_path, tmp_path / "a", tmp_path / "a" / "1.h5") == ["a/1.h5", "a/b/2.h5"]


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    make(tmp_path, "1.h5")
    (tmp_path / "gone.h5").symlink_to(tmp_path / "absent")
    (tmp_path / "circle.h5").symlink_to("circle.h5")
    found = names(tmp_path)
    assert found == ["1.h5", "circle.h5", "gone.h5"]
    for name in found[1:]:
        with pytest.raises(DataError, match=rf"cannot read {tmp_path / name}: "):
            recognise(tmp_path / name)
