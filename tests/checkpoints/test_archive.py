"""The archive has what was committed, and gives it back to an empty disk."""

import logging
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from archives import archive_of, assert_restores, save, store_in
from test_kills import WORLD, Engine, killed, operations

from dpot_scale.checkpoints import answers, archived_records
from dpot_scale.checkpoints.archive import Archive, UnreachableError
from dpot_scale.checkpoints.branch import take_over
from dpot_scale.checkpoints.checkpoint import Checkpoint, TrainState, committed, verify
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.load import load_run
from dpot_scale.config.places import MARKER, METRICS, MLFLOW_RECORD, ROLLBACKS
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.files import write_whole


def test_a_run_goes_on_from_the_archive_on_an_empty_disk(tmp_path: Path, url: str) -> None:
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 1, 2, 3)
    shutil.rmtree(tmp_path / "run")
    assert_restores(here, url, 3)
    assert [one.state.step for one in committed(here)] == [3]
    other = store_in(tmp_path / "other" / "checkpoints", url)
    other.catch_up()
    assert other.restore(Engine()) is None


def test_what_a_run_skips_comes_back_to_an_empty_disk(tmp_path: Path, url: str) -> None:
    record = tmp_path / "run" / ROLLBACKS
    record.parent.mkdir()
    for content in ("the first", "the second"):
        record.write_text(content)
        save(record.parent / "checkpoints", url, len(content))
    record.write_text("what the disk has counts")
    store_in(record.parent / "checkpoints", url).catch_up()
    assert record.read_text() == "what the disk has counts"
    shutil.rmtree(record.parent)
    record.parent.mkdir()
    store_in(record.parent / "checkpoints", url).catch_up()
    assert record.read_text() == "the second"


def test_a_folder_of_before_takes_what_the_archive_has_beyond_it(tmp_path: Path, url: str) -> None:
    """As one that was restored from a backup, or of a machine that has not trained since."""
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 1, 2)
    shutil.copytree(here.parent, tmp_path / "before")
    (here.parent / ROLLBACKS).write_text("what it skips since")
    save(here, url, 3, 4)
    shutil.rmtree(here.parent)
    (tmp_path / "before").rename(here.parent)
    assert_restores(here, url, 4)
    assert (here.parent / ROLLBACKS).read_text() == "what it skips since"
    save(here, url, 5)
    assert sorted(archive_of(url).steps()) == [4, 5]


def test_a_branch_goes_on_from_what_it_has_in_the_archive(tmp_path: Path, url: str) -> None:
    """On an empty disk it begins at its trunk, which ends long before."""
    save(tmp_path / "trunk" / "checkpoints", url, 1, identity="of the trunk")
    (shared,) = committed(tmp_path / "trunk" / "checkpoints")
    here = tmp_path / "run" / "checkpoints"
    take_over(shared, here, "hash")
    save(here, url, 3, 4)
    shutil.rmtree(here)
    take_over(shared, here, "hash")
    assert_restores(here, url, 4)


def test_a_run_that_is_not_so_far_replaces_nothing(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that began while the archive could not be reached."""
    here = tmp_path / "run" / "checkpoints"
    (tmp_path / "run").mkdir()
    (here.parent / ROLLBACKS).write_text("of step 4")
    save(here, url, 3, 4)
    shutil.rmtree(here)
    (here.parent / ROLLBACKS).write_text("of another way")
    save(here, url, 1, 2)
    assert "has step 4 of this run, which is not so far here" in caplog.text
    shutil.rmtree(here.parent)
    assert_restores(here, url, 4)
    assert (here.parent / ROLLBACKS).read_text() == "of step 4"


def test_a_run_that_went_on_beyond_it_replaces_it(tmp_path: Path, url: str) -> None:
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 3, 4)
    shutil.rmtree(here)
    save(here, url, 2, 5)
    assert sorted(archive_of(url).steps()) == [4, 5]


def test_another_run_of_the_same_name_is_refused_and_removes_nothing(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 3, 4)
    elsewhere = tmp_path / "elsewhere" / "run" / "checkpoints"
    store = store_in(elsewhere, url, identity="other")
    with pytest.raises(CheckpointError, match=r"another run of the name run \(hash, this"):
        store.catch_up()
    assert not elsewhere.exists()
    store.save(Engine(9), TrainState(step=9))
    store.close()
    assert "holds another run of the name run" in caplog.text
    assert sorted(archive_of(url).steps()) == [3, 4]


@pytest.mark.parametrize("damaged", [MARKER, "shards/rank_00000.safetensors"])
def test_what_is_damaged_here_comes_from_the_archive(
    tmp_path: Path, url: str, damaged: str
) -> None:
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 1, 2)
    other_run = shutil.copytree(here, tmp_path / "trunk", copy_function=os.link)
    (here / "step_000002" / damaged).unlink()
    (here / "step_000002" / damaged).write_bytes(b"{}")
    assert_restores(here, url, 2)
    assert verify(committed(here)[0]) == []
    shutil.rmtree(here / "step_000001")
    (here / "step_000002" / damaged).write_bytes(b"{}")
    assert_restores(here, url, 2)
    assert all(verify(one) == [] for one in committed(other_run)), "that of others is not touched"


def test_what_is_damaged_in_both_places_is_gone_behind(tmp_path: Path, url: str) -> None:
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 1, 2)
    files, root = fsspec.core.url_to_fs(url)
    shard = "step_000002/shards/rank_00000.safetensors"
    files.pipe_file(f"{root}/run/{shard}", b"other")
    (here / shard).write_bytes(b"other")
    store, engine = store_in(here, url, keep=3), Engine()
    store.catch_up()
    assert store.restore(engine) == TrainState(step=1)
    store.save(engine, TrainState(step=1))
    store.close()
    assert sorted(archive_of(url).steps()) == [1]
    for one in (f"{root}/run/step_000001/shards/rank_00000.safetensors", None):
        if one is None:
            shutil.rmtree(here)
        else:
            files.pipe_file(one, b"other")
            (here / "step_000001" / "shards" / "rank_00000.safetensors").write_bytes(b"other")
        with pytest.raises(CheckpointError, match=f"no checkpoint at {url} is intact"):
            assert_restores(here, url, 0)


def test_where_the_archive_cannot_be_read_a_run_goes_on_from_its_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"file://{tmp_path}/archive"
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 1)
    shutil.rmtree(tmp_path / "archive")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "run").symlink_to("run")
    assert_restores(here, url, 1)
    assert "the run goes on from what the disk has" in caplog.text
    shutil.rmtree(here)
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint\.archive"):
        assert_restores(here, url, 1)


def test_the_curve_comes_back_and_what_its_owner_has_made_of_it_stays(
    tmp_path: Path, url: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (METRICS, MLFLOW_RECORD):
        (run / name).write_text("of before")
    save(run / "checkpoints", url, 1)
    for is_made in (False, True):
        shutil.rmtree(run)
        run.mkdir()
        if is_made:
            (run / MLFLOW_RECORD).write_text("of a driver")
        store_in(run / "checkpoints", url).catch_up()
        assert (run / METRICS).read_text() == "of before"
        assert (run / MLFLOW_RECORD).read_text() == ("of a driver" if is_made else "of before")


def test_what_is_being_copied_stays_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url, here = f"file://{tmp_path}/archive", tmp_path / "run" / "checkpoints"
    begun, may_end, copied = threading.Event(), threading.Event(), []
    put = Archive._put

    def slow(archive: Archive, checkpoint: Checkpoint) -> None:
        begun.set()
        assert may_end.wait(60)
        put(archive, checkpoint)
        copied.append(checkpoint.state.step)

    monkeypatch.setattr(Archive, "_put", slow)
    store = store_in(here, url)
    store.save(Engine(1), TrainState(step=1))
    assert begun.wait(60)
    for step in (2, 3, 4):
        store.save(Engine(step), TrainState(step=step))
    store.settle()  # does not wait for the archive
    assert [one.state.step for one in committed(here)] == [4, 3, 1]
    may_end.set()
    store.close()
    assert copied == [1, 4, 3]
    assert sorted(archive_of(url).steps()) == [3, 4]
    assert [one.state.step for one in committed(here)] == [4, 3]
    assert not caplog.messages


def test_it_keeps_what_the_disk_keeps_and_touches_nothing_else(tmp_path: Path, url: str) -> None:
    files, root = fsspec.core.url_to_fs(url)
    for other in ("step_1", "step_000001_mine", "notes"):
        files.makedirs(f"{root}/run/{other}", exist_ok=True)
        files.pipe_file(f"{root}/run/{other}/COMMITTED.json", b"{}")
    here = tmp_path / "run" / "checkpoints"
    for step in (1, 2, 3, 4, 5):
        save(here, url, step, keep_every=2)
    assert sorted(archive_of(url).steps()) == [2, 4, 5]
    assert all(files.exists(f"{root}/run/{one}/COMMITTED.json") for one in ("step_1", "notes"))


def test_what_newer_ones_replace_is_not_copied(tmp_path: Path, url: str) -> None:
    """As where a run was killed before it had removed an old one."""
    here = tmp_path / "run" / "checkpoints"
    for step in (1, 2, 3):
        unsynced(here, step, keep=3)
    config = CheckpointConfig()
    assert [one.state.step for one in committed(here)] == [3, 2, 1]
    assert archive_of(url).sync(here, config).steps == [3, 2]
    assert archive_of(url).sync(here, config).steps == []


def test_an_upload_that_ends_anywhere_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/archive"
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 1)
    archive = archive_of(url)
    calls = 0

    def ends_at(last: int) -> Any:
        def counted(name: str) -> Any:
            original = getattr(archive._files, name)

            def act(*args: object, **kwargs: object) -> object:
                nonlocal calls
                calls += 1
                if calls > last:
                    raise KeyboardInterrupt
                return original(*args, **kwargs)

            return act

        return counted

    kept = CheckpointConfig()
    finished = 0
    while not finished:
        calls = 0
        step = committed(here)[0].state.step + 1
        CheckpointStore(here, config=kept, identity="hash", world=WORLD).save(
            Engine(step), TrainState(step=step)
        )
        with monkeypatch.context() as patch:
            counted = ends_at(step - 2)
            for name in ("rm_file", "makedirs", "put_file", "pipe_file", "rm"):
                patch.setattr(archive._files, name, counted(name))
            try:
                archive.sync(here, kept)
                finished = step
            except KeyboardInterrupt:
                pass
        empty = tmp_path / f"empty_{step}"
        fetched = archive.fetch(empty)
        assert fetched is not None
    assert finished > 5
    assert fetched.state.step == finished


def test_an_upload_may_be_killed_at_any_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marker and list are written last: a copy counts or it does not, and no record is lost."""
    monkeypatch.setattr(archived_records, "PIECE_BYTES", 4)
    here = tmp_path / "run" / "checkpoints"
    curves = ["the cur", "the curve goes on"]
    write_whole(here.parent / METRICS, curves[0])
    save(here, f"file://{tmp_path}/saved", 1, 2)
    write_whole(here.parent / METRICS, curves[1])
    unsynced(here, 3)

    def sync(archive: Path) -> None:
        archive_of(f"file://{archive}").sync(here, CheckpointConfig())

    table = operations(partial(sync, shutil.copytree(tmp_path / "saved", tmp_path / "whole")))
    assert {"mkdir", "open", "write", "remove", "rmdir"} <= set(table), table
    found = []
    for number, _ in enumerate(table):
        archive = shutil.copytree(tmp_path / "saved", tmp_path / f"archive_{number}")
        killed(partial(sync, archive), at=number)
        url, empty = f"file://{archive}", tmp_path / f"empty_{number}" / "run"
        fetched = archive_of(url).fetch(empty / "checkpoints", records=True)
        assert fetched is not None
        engine = Engine()
        assert store_in(empty / "checkpoints", url).restore(engine) == fetched.state
        assert engine.value == fetched.state.step
        found.append((curves.index((empty / METRICS).read_text()), fetched.state.step))
        sync(archive)  # what was left is no obstacle
        assert archive_of(url).steps() == {2, 3}
        assert same_files(archive, tmp_path / "whole")
    assert found == sorted(found), "once there, it stays"
    assert set(found) == {(0, 2), (1, 2), (1, 3)}


@pytest.mark.parametrize("how", ["fetched", "taken over"])
def test_all_of_a_copy_is_on_the_disk_before_its_marker_is(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power, what has a marker is whole: also the names in its inner folders."""
    url, here = f"file://{tmp_path}/archive", tmp_path / "run" / "checkpoints"
    save(here, url, 1)
    directory, happened = tmp_path / "new", []
    fsync, replace = os.fsync, Path.replace

    def flush(number: int) -> None:
        fsync(number)
        happened.append(Path(f"/proc/self/fd/{number}").readlink())

    def commit(path: Path, target: Path) -> Path:
        happened.append(target)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", commit)
    if how == "fetched":
        assert archive_of(url).fetch(directory) is not None
    else:
        take_over(committed(here)[0], directory, "hash")
    folder = directory / "step_000001"
    before = happened[: happened.index(folder / MARKER)]
    shards = folder / "shards"
    assert {directory, folder, shards, shards / "rank_00000.safetensors"} <= set(before)


def test_a_fetch_may_be_killed_at_any_operation(tmp_path: Path) -> None:
    url, here = f"file://{tmp_path}/archive", tmp_path / "run" / "checkpoints"
    for name in (METRICS, MLFLOW_RECORD):
        write_whole(here.parent / name, "of before")
    save(here, url, 1, 2)

    def fetch(directory: Path) -> None:
        archive_of(url).fetch(directory / "run" / "checkpoints", records=True)

    table = operations(partial(fetch, tmp_path / "whole"))
    assert {"mkdir", "open", "write", "fsync", "replace"} <= set(table), table
    for number, _ in enumerate(table):
        directory = tmp_path / f"fetched_{number}"
        killed(partial(fetch, directory), at=number)
        assert_restores(directory / "run" / "checkpoints", url, 2)
        assert (directory / "run" / METRICS).read_text() == "of before"


def unsynced(directory: Path, step: int, keep: int = 2) -> None:
    """Commit a checkpoint of which no archive knows."""
    config = CheckpointConfig(keep=keep)
    store = CheckpointStore(directory, config=config, identity="hash", world=WORLD)
    store.save(Engine(step), TrainState(step=step))


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same."""
    contents = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (one, other)
    ]
    return contents[0] == contents[1]


def test_an_archive_that_cannot_be_reached_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "archive").write_text("a file in its place")
    with caplog.at_level(logging.WARNING):
        save(tmp_path / "run" / "checkpoints", f"file://{tmp_path}/archive", 1, 2)
    assert "archive is not up to date" in caplog.text
    assert "; it lacks step_000001, step_000002 of this run" in caplog.messages[-1]
    (tmp_path / "archive").unlink()
    save(tmp_path / "run" / "checkpoints", f"file://{tmp_path}/archive", 3)
    assert sorted(archive_of(f"file://{tmp_path}/archive").steps()) == [2, 3]


def test_a_damaged_copy_is_not_taken(tmp_path: Path, url: str) -> None:
    here = tmp_path / "run" / "checkpoints"
    save(here, url, 1, 2)
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/run/step_000002/shards/rank_00000.safetensors", b"other")
    shutil.rmtree(here)
    assert_restores(here, url, 1)


def test_a_file_system_that_is_not_installed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.archive=nosuch://x needs a file system"):
        store_in(tmp_path, "nosuch://x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("somewhere/else", "is no URL"),
        ("s3://key:secret@bucket", "may be a bare address only"),
        ("https://host/path?token=secret", "may be a bare address only"),
    ],
)
def test_an_address_is_a_bare_url(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        load_run("quickstart", [f"checkpoint.archive={given}"])
    assert "secret" not in str(refused.value)


def test_what_cannot_be_read_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(f"file://{tmp_path}")

    def fail(*_: object, **__: object) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(archive._files, "ls", fail)
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint.archive=.*: no answer"):
        archive.fetch(tmp_path / "checkpoints")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An archive on a server that accepts connections and never answers."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "any")
        monkeypatch.setattr(answers, "ANSWER_SECONDS", 0.5)
        yield "s3://silent/archive"
        fsspec.filesystem("s3").clear_instance_cache()


def test_where_the_archive_is_silent_a_run_starts_from_its_disk_and_comes_to_its_end(
    tmp_path: Path, silent: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = tmp_path / "run" / "checkpoints"
    save(here, f"file://{tmp_path}/archive", 1)
    store, engine = store_in(here, silent), Engine()
    store.catch_up()
    assert "did not answer for 0 seconds; the run goes on from what the disk has" in caplog.text
    assert store.restore(engine) == TrainState(step=1)
    store.save(engine, TrainState(step=2))
    caplog.clear()
    store.close()
    assert f"checkpoint.archive={silent} is not up to date" in caplog.text
    assert "; it lacks step_000001, step_000002 of this run" in caplog.messages[-1]
    with pytest.raises(UnreachableError, match="did not answer"):
        archive_of(silent).steps()
