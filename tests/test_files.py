"""Files that are whole or not there, and locks, also where the file system has none."""

import contextlib
import errno
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dpot_scale import files
from dpot_scale.errors import DiskError
from dpot_scale.files import cannot_write, held, is_another, is_held, replacing, sha256, write_whole

NO_FLOCK = """
#include <errno.h>
int flock(int fd, int operation) { (void)fd; (void)operation; errno = %d; return -1; }
"""
HOLD = """
import sys
from pathlib import Path
from dpot_scale.files import held
try:
    with held(Path(sys.argv[1]), wait=False):
        print("held", flush=True)
        sys.stdin.read()
except BlockingIOError:
    print("busy", flush=True)
"""


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, "old")
    interrupted = pytest.raises(KeyboardInterrupt)
    with interrupted, replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    write_whole(path, b"new")
    assert path.read_text() == "new"
    assert [path.name for path in path.parent.iterdir()] == ["file"]


def test_a_full_disk_is_named_with_what_is_left(tmp_path: Path, small_disk: Path) -> None:
    path = small_disk / "file"
    write_whole(path, "old")
    with pytest.raises(DiskError) as caught:
        write_whole(path, bytes(2**21))
    said = rf"cannot write {path}: No space left on device; [\d,]+ bytes are free in {small_disk}: "
    assert re.fullmatch(rf"{said}make room there and start again", str(caught.value))
    assert path.read_text() == "old"
    assert [path.name for path in small_disk.iterdir()] == ["file"]


def test_another_reason_says_nothing_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(DiskError) as caught:
        write_whole(tmp_path / "file", "")
    assert str(caught.value) == f"cannot write {tmp_path}/file: Is a directory"


def test_the_sentence_says_how_much_is_needed(tmp_path: Path) -> None:
    """A library's own words, several lines of them, give way to those of the system."""
    error = OSError(errno.ENOSPC, "Can't write data (file write failed: time = ...\n, filename")
    said = str(cannot_write(tmp_path / "a.h5", error, needed=2**20))
    free = rf"[\d,]+ bytes are free in {tmp_path} and 1,048,576 are needed"
    assert re.search(rf"a\.h5: No space left on device; {free}: make room there", said)


def close_after_a_failed_write() -> None:
    try:
        raise OSError(errno.ENOSPC, "Can't write data")
    finally:
        raise RuntimeError("Can't decrement id ref count")


def test_closing_a_file_does_not_hide_the_reason() -> None:
    with pytest.raises(RuntimeError) as caught:
        close_after_a_failed_write()
    assert "No space left on device" in str(cannot_write(Path("a.h5"), caught.value))


def test_without_a_reason_of_the_system_there_is_the_message_in_one_line(tmp_path: Path) -> None:
    error = RuntimeError("Can't close file\n, filename = 'a.h5'")
    assert "a.h5: Can't close file , filename = 'a.h5'; " in str(
        cannot_write(tmp_path / "a.h5", error)
    )


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(tmp_path):
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            listening.bind("file")
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises(OSError, match=f"it is a {kind}, not a file"):
            sha256(path)


def test_sha256_and_its_progress(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    read: list[int] = []
    assert sha256(tmp_path / "file", read.append) == hashlib.sha256(content).hexdigest()
    assert sum(read) == len(content)


@pytest.fixture(params=[0, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Of a process on a file system with locks, and on some without."""
    return os.environ | (without_locks(tmp_path, request.param) if request.param else {})


def without_locks(folder: Path, number: int = errno.ENOLCK) -> dict[str, str]:
    """Return the environment of a process for which no file system has locks."""
    source, library = folder / "no_flock.c", folder / "no_flock.so"
    source.write_text(NO_FLOCK % number)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


def test_a_file_is_opened_again_without_locks(tmp_path: Path) -> None:
    """As the loader and the evaluation of a training do, each in a thread of its own."""
    program = (
        "import sys; from dpot_scale.data.store.open_files import open_hdf5\n"
        "open_hdf5(sys.argv[1], 'w').close(); one = open_hdf5(sys.argv[1])\n"
        "two = open_hdf5(sys.argv[1]); print(one == two)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file.h5")],
        env=os.environ | without_locks(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_data_are_imported_and_read_without_locks(number: int, tmp_path: Path) -> None:
    """HDF5 locks what it opens, too."""
    source = Path(__file__).parent / "upstream" / "pdebench_shallow_water.h5"
    program = (
        "import sys; from dpot_scale.prepare import main; "
        "sys.exit(main(['import', sys.argv[1], '--out', sys.argv[2]]) "
        "or main(['verify', sys.argv[2]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), str(tmp_path / "data")],
        env=os.environ | without_locks(tmp_path, number),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "file system without locks" in done.stderr
    assert "swe_pdb" in done.stdout


class Holder:
    """A process that holds a lock until it is killed or told to let go."""

    def __init__(self, lock: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    def ended(self, *, killed: bool) -> str:
        if killed:
            self.process.kill()
        return self.process.communicate()[1]


@pytest.mark.parametrize("killed", [False, True])
def test_one_process_holds_a_lock(
    killed: bool, environment: dict[str, str], tmp_path: Path
) -> None:
    lock = tmp_path / "new" / ".lock"
    first = Holder(lock, environment)
    second = Holder(lock, environment)
    assert (first.said, second.said) == ("held", "busy")
    second.ended(killed=False)
    warning = first.ended(killed=killed)
    assert ("file system without locks" in warning) == ("LD_PRELOAD" in environment)
    third = Holder(lock, environment)
    assert third.said == "held", "the end of a process is the end of its lock"
    third.ended(killed=False)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process see no locks, and wait little for others."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    monkeypatch.setattr(files, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(files, "SILENCE_SECONDS", 0.5)


def test_a_waiting_process_gets_it_in_the_end(no_locks: None, tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    order: list[str] = []

    def wait() -> None:
        with held(lock, wait=True):
            order.append("second")

    with held(lock, wait=True):
        assert is_held(lock)
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not is_held(lock)


@pytest.mark.parametrize("lives", [False, True])
def test_the_owner_on_another_machine_is_watched(
    lives: bool, no_locks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken for dead when it shows no life; its number means nothing here."""
    lock = tmp_path / ".lock"
    with contextlib.ExitStack() as elsewhere:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "elsewhere")
            if lives:
                elsewhere.enter_context(held(lock, wait=False))
            else:
                (tmp_path / ".lock.owner").write_text(f"{files.this_place()} 1 2 3")
                lock.touch()
        assert is_held(lock) == lives
        if lives:
            with pytest.raises(BlockingIOError), held(lock, wait=False):
                pass
        else:
            with held(lock, wait=False):
                assert is_held(lock)
    assert not is_held(lock)


def test_who_sees_a_dead_owner_late_removes_no_living_one(tmp_path: Path) -> None:
    path = tmp_path / ".lock.owner"
    path.write_text("the living one")  # which was there first
    files._remove(path, "the dead one")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["the living one"]
    files._remove(path, "the living one")
    files._remove(path, "the living one")
    assert list(tmp_path.iterdir()) == []


def test_of_those_who_see_a_dead_owner_one_comes_in_at_a_time(
    no_locks: None, tmp_path: Path
) -> None:
    lock = tmp_path / ".lock"
    (tmp_path / ".lock.owner").write_text(f"{files.this_place()} 1 2 3")
    inside: list[int] = []
    most: list[int] = []

    def come_in() -> None:
        with held(lock, wait=True):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=come_in) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert [one.name for one in tmp_path.iterdir()] == [".lock"]


def test_machines_of_one_name_are_two_places() -> None:
    """Their process numbers mean nothing to each other."""
    mine = files.this_place()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert mine == f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink()}/{boot_id}"


def test_the_owner_that_an_earlier_version_wrote_is_watched(no_locks: None, tmp_path: Path) -> None:
    place = files.this_place().rpartition("/")[0]
    me = f"{place} {os.getpid()} {files.start_time('self')} 1"
    (tmp_path / ".lock.owner").write_text(me)
    (tmp_path / ".lock").touch()
    assert not is_held(tmp_path / ".lock"), "it was not touched"
    with held(tmp_path / ".lock", wait=False):
        assert is_held(tmp_path / ".lock")


def test_an_error_that_is_not_about_locks_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError), held(Path("/dev/null/new/.lock"), wait=True):
        pass
    assert not is_held(tmp_path / "absent")


def test_those_who_wait_come_one_by_one(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from dpot_scale.files import held\n"
        f"with held(Path('{tmp_path}/lock'), wait=True):\n"
        "    entered = time.monotonic(); time.sleep(0.3); print(entered, time.monotonic())"
    )
    started = time.monotonic()
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    spans = sorted(
        tuple(map(float, process.communicate(timeout=60)[0].split())) for process in processes
    )
    assert spans[0][0] > started
    assert spans[0][1] <= spans[1][0]


def test_a_folder_into_which_nobody_may_look_counts_as_there(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "run"
    assert not is_another(folder, tmp_path)
    folder.mkdir(parents=True)
    assert is_another(folder, tmp_path)
    assert not is_another(folder, tmp_path / "home/../home/run")
    user = os.geteuid()
    folder.parent.chmod(0)
    if user == 0:
        os.seteuid(65534)  # root may look everywhere
    try:
        assert is_another(folder, tmp_path)
    finally:
        os.seteuid(user)
        folder.parent.chmod(0o700)


def test_a_lock_file_that_is_no_text_names_no_owner(no_locks: None, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    for pid in (b"\0", b"../../tmp", b"\xff", b"-1"):
        owner = files.this_place().encode() + b" " + pid + b" 2 3"
        (tmp_path / ".lock.owner").write_bytes(owner)
        assert not files.is_held(tmp_path / ".lock")
