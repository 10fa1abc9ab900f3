"""What is said of all the datasets in a folder."""

from pathlib import Path

import h5py
import pytest

from dpot_scale.data.store.overview import list_datasets, verify_datasets
from dpot_scale.errors import UserError


def test_a_row_says_what_the_index_says(make_store, tmp_path: Path) -> None:
    make_store("b", channels=("u", "v"))
    make_store("a", frames=7)
    listed = list_datasets(tmp_path)
    assert [row[0] for row in listed.rows] == ["a", "b"]
    assert listed.header[:8] == (
        "name", "equation", "grid", "frames", "channels", "train", "valid", "test"
    )  # fmt: skip
    assert listed.rows[1][1:8] == ("none", "4x4", "6", "u,v", "3", "0", "2")
    assert listed.problems == []
    (alone,) = list_datasets(tmp_path / "b").rows
    assert alone == listed.rows[1]
    assert len(listed.table().splitlines()) == 3


def test_a_faulty_dataset_is_named_and_the_others_are_shown(make_store, tmp_path: Path) -> None:
    make_store("whole", channels=("u", "v"))
    changed = make_store("changed").folder
    with h5py.File(changed / "train" / "shard-00000.h5", "r+") as file:
        file["fields"][0] += 1
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.json").write_text("{}")
    verified = verify_datasets(tmp_path)
    states = {name: state for name, _, _, state in verified.rows}
    assert states == {"changed": "1 problems", "whole": "ok"}
    assert [problem.split(": ")[0] for problem in verified.problems[1:]] == ["changed"]
    assert "broken/index.json" in verified.problems[0]
    assert list_datasets(tmp_path).problems == verified.problems[:1]


def test_a_folder_without_a_dataset_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no dataset; make one with"):
        list_datasets(tmp_path)
    with pytest.raises(UserError, match="absent does not exist; make one with"):
        verify_datasets(tmp_path / "absent")


def test_a_dataset_that_is_a_link_is_seen(make_store, tmp_path: Path) -> None:
    """On another disk, or beside itself under a second name; links in a circle end."""
    make_store("a")
    home = tmp_path / "home"
    (home / "more").mkdir(parents=True)
    (home / "far").symlink_to(tmp_path / "a")
    (home / "more" / "far").symlink_to(tmp_path / "a")
    (home / "more" / "back").symlink_to(home)
    listed, verified = list_datasets(home), verify_datasets(home)
    assert [row[0] for row in listed.rows] == ["far", "more/far"]
    assert [(row[0], row[-1]) for row in verified.rows] == [("far", "ok"), ("more/far", "ok")]
    (alone,) = list_datasets(home / "far").rows
    assert alone[1:] == listed.rows[0][1:] == list_datasets(tmp_path / "a").rows[0][1:]


def test_a_split_that_lies_on_another_disk_counts(make_store, tmp_path: Path) -> None:
    folder = make_store("a").folder
    before = list_datasets(folder).rows
    (tmp_path / "disk").mkdir()
    (folder / "train").rename(tmp_path / "disk" / "train")
    (folder / "train").symlink_to(tmp_path / "disk" / "train")
    assert list_datasets(folder).rows == before
    assert verify_datasets(folder).problems == []
