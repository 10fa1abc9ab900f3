"""The records of a run in its archive: sent in pieces, given back whole."""

import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from archives import archive_of, assert_restores, save, store_in

from dpot_scale.checkpoints import archived_records
from dpot_scale.checkpoints.answers import Answers
from dpot_scale.checkpoints.archived_records import ArchivedRecords
from dpot_scale.config.places import METRICS, MLFLOW_RECORD, ROLLBACKS
from dpot_scale.errors import CheckpointError

PIECE = 1000
RECORD = b'{"step": 1, "train/loss": 0.5}\n'


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archived_records, "PIECE_BYTES", PIECE)


def records_at(url: str) -> ArchivedRecords:
    """The records of a run, as a process that has just been started sees them."""
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return ArchivedRecords(files, Answers(), PurePosixPath(root) / "run", url)


def there(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return sorted(one.removeprefix(f"{root}/run/") for one in files.find(f"{root}/run"))


def test_what_has_been_sent_is_not_sent_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 pieces each sync sends the newest alone, and the list of all."""
    files, _ = fsspec.core.url_to_fs(url)
    written: list[int] = []
    pipe_file = files.pipe_file

    def counted(path: str, content: bytes, **more: Any) -> None:
        written.append(len(content))
        pipe_file(path, content, **more)

    monkeypatch.setattr(files, "pipe_file", counted)
    here = tmp_path / "run"
    here.mkdir()
    for number in range(10):
        with (here / METRICS).open("ab") as spool:
            spool.writelines(b"%d %d\n" % (number, line) for line in range(700))
        size = (here / METRICS).stat().st_size
        written.clear()
        assert records_at(url).put(here) == sum(written)
        pieces, (of_list,) = written[:-1], written[-1:]
        assert 4 <= len(pieces) <= 6, "those that have become full, and the last"
        assert of_list < 100 * (size // PIECE + 3)
        assert records_at(url).put(here) == 0, number
    assert len(there(url)) == -(-size // PIECE) + 1, "no piece that was not full is left, no list"
    shutil.copytree(here, tmp_path / "before")
    shutil.rmtree(here)
    records_at(url).get(here)
    assert (here / METRICS).read_bytes() == (tmp_path / "before" / METRICS).read_bytes()
    assert len((here / METRICS).read_bytes()) == size


def test_a_record_that_is_replaced_or_gone(tmp_path: Path, url: str) -> None:
    """A spool loses the half record of a crash; what is absent here stays there."""
    here = tmp_path / "run"
    here.mkdir()
    (here / METRICS).write_bytes(RECORD * 100)
    (here / ROLLBACKS).write_text("of before")
    records_at(url).put(here)
    (here / METRICS).write_bytes(RECORD * 90)
    (here / ROLLBACKS).unlink()
    (here / MLFLOW_RECORD).write_text("")
    records_at(url).put(here)
    shutil.rmtree(here)
    records_at(url).get(here)
    assert (here / METRICS).read_bytes() == RECORD * 90
    assert (here / ROLLBACKS).read_text() == "of before"
    assert (here / MLFLOW_RECORD).read_text() == ""


def test_an_archive_of_before_has_whole_records_which_come_back(tmp_path: Path, url: str) -> None:
    here = tmp_path / "run"
    save(here / "checkpoints", url, 1)
    files, root = fsspec.core.url_to_fs(url)
    for name in (METRICS, ROLLBACKS):
        files.pipe_file(f"{root}/run/{name}", name.encode() * PIECE)
    for whole in ([METRICS, ROLLBACKS], [ROLLBACKS], []):
        assert [name for name in there(url) if "/" not in name] == whole
        shutil.rmtree(here)
        store_in(here / "checkpoints", url).catch_up()
        for name in (METRICS, ROLLBACKS):
            assert (here / name).read_bytes() == name.encode() * PIECE
        if METRICS in whole:
            (here / ROLLBACKS).unlink()
        records_at(url).put(here)  # what lies in pieces then takes the place of the whole


def test_what_was_cut_is_sent_again(tmp_path: Path, url: str) -> None:
    here = tmp_path / "run"
    here.mkdir()
    (here / METRICS).write_bytes(RECORD * 100)
    records_at(url).put(here)
    files, root = fsspec.core.url_to_fs(url)
    for name in there(url):
        whole = files.cat_file(f"{root}/run/{name}")
        files.pipe_file(f"{root}/run/{name}", whole[:-1])
        assert records_at(url).put(here) == len(whole)
        assert files.cat_file(f"{root}/run/{name}") == whole


def test_of_two_lists_of_a_number_the_whole_one_counts(tmp_path: Path, url: str) -> None:
    """As where an interruption cut the one, and the next one was interrupted before it cleaned."""
    here = tmp_path / "run"
    here.mkdir()
    (here / METRICS).write_bytes(RECORD)
    records_at(url).put(here)
    files, root = fsspec.core.url_to_fs(url)
    for digit in "0f":
        files.pipe_file(f"{root}/run/records/list_000001_{digit * 64}", b"cut")
    (here / METRICS).unlink()
    records_at(url).get(here)
    assert (here / METRICS).read_bytes() == RECORD
    assert records_at(url).put(here) == 0
    assert len(there(url)) == 2, "what was cut is removed"


def test_a_damaged_piece_is_one_sentence(tmp_path: Path, url: str) -> None:
    here = tmp_path / "run"
    here.mkdir()
    (here / METRICS).write_bytes(RECORD * 100)
    save(here / "checkpoints", url, 1)
    files, root = fsspec.core.url_to_fs(url)
    (piece, *_) = [name for name in there(url) if "records/" in name and "list_" not in name]
    files.pipe_file(f"{root}/run/{piece}", b"other")
    shutil.rmtree(here)
    store = store_in(here / "checkpoints", url)
    with pytest.raises(CheckpointError, match=r"^run/records at .* is damaged, .* remove run/reco"):
        store.catch_up()
    files.rm(f"{root}/run/records", recursive=True)
    assert_restores(here / "checkpoints", url, 1)
    assert not (here / METRICS).exists()


def test_what_a_newer_version_wrote_is_left_as_it_is(tmp_path: Path, url: str) -> None:
    here = tmp_path / "run"
    here.mkdir()
    (here / METRICS).write_bytes(RECORD)
    content = b'{"format": 99, "pieces": {}}'
    files, root = fsspec.core.url_to_fs(url)
    files.makedirs(f"{root}/run/records", exist_ok=True)
    name = f"list_000001_{archived_records._sum(content)}"
    files.pipe_file(f"{root}/run/records/{name}", content)
    with pytest.raises(CheckpointError, match=r"its format is 99, and this version reads 1\)"):
        archive_of(url).sync(here / "checkpoints", store_in(here / "checkpoints", url).config)
    assert there(url) == [f"records/{name}"]
