"""Walks through folders of data, also where symbolic links lead to other disks."""

from pathlib import Path

from dpot_scale.data.store.folders import walk


def test_links_are_followed_and_no_folder_is_entered_twice(tmp_path: Path) -> None:
    for folder in ("disk/a", "home/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    (tmp_path / "home" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "home")
    found = [str(folder.relative_to(tmp_path / "home")) for folder, _, _ in walk(tmp_path / "home")]
    assert found == [".", "b", "link", "link/a"]


def test_names_that_are_removed_are_not_entered(tmp_path: Path) -> None:
    for folder in ("a/deep", "b/deep"):
        (tmp_path / folder).mkdir(parents=True)
    found = []
    for folder, subfolders, _ in walk(tmp_path):
        found.append(folder.name)
        if "a" in subfolders:
            subfolders.remove("a")
    assert found == [tmp_path.name, "b", "deep"]
