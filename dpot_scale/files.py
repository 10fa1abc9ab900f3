"""Durable and atomic writing of files, locks between processes, and checksums."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from dpot_scale.errors import DiskError
from dpot_scale.processes import start_time, this_place

log = logging.getLogger(__name__)

# What `flock` says where it does not exist: on NFS and Lustre mounted without it, and elsewhere.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
TORCH_WRITER = ("inline_container", "iostream")  # in what torch.save raises
FULL = {errno.ENOSPC, errno.EDQUOT}
AGAIN = " and start again"  # what to do once there is room

# An owner of a lock file shows so often that it lives, and is taken for dead after such a silence.
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 30.0

HASHED_AT_ONCE = 8 * 2**20


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all. It is flushed to the disk when this returns.

    Raises:
        DiskError: it cannot be written; what was there before is still there.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` at the end.

    Raises:
        DiskError: it cannot be written; what was there before is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        flush_to_disk(partial)
        partial.replace(path)
        flush_to_disk(path.parent)
    except (OSError, RuntimeError) as error:
        if not is_about_writing(error):
            raise
        raise cannot_write(path, error) from error
    finally:
        if partial.is_file():
            partial.unlink()


def is_another(folder: Path, than: Path) -> bool:
    """Return whether a folder is there and not the same as another one.

    One below a folder into which this user may not look counts as there.
    """
    try:
        return stat.S_ISDIR(folder.stat().st_mode) and not folder.samefile(than)
    except PermissionError:
        return True
    except OSError:
        return False


def flush_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if not (path.is_dir() and error.errno in NO_LOCKS):  # some systems cannot flush a folder
            raise
    finally:
        os.close(number)


def flush_folders(folder: Path) -> None:
    """Flush the names in a folder, in all folders below it, and its own to the disk."""
    inner = (path for path in folder.rglob("*") if path.is_dir())
    for one in (*inner, folder, folder.parent):
        flush_to_disk(one)


def cannot_write(
    path: Path, error: OSError | RuntimeError, *, needed: int | None = None
) -> DiskError:
    """Return the error for a file or folder that could not be written, with the reason.

    Args:
        path: The file or folder.
        error: The error of the system or of a library.
        needed: How many bytes were to be written, if known.
    """
    return DiskError(f"cannot write {path}: {reason(path, error, needed=needed)}")


def reason(path: Path, error: OSError | RuntimeError, *, needed: int | None = None) -> str:
    """Return why `path` could not be written. If the disk may be full, say how many bytes are free.

    Libraries hide the error of the system in one of their own, or do not mention it.
    """
    number = getattr(error if isinstance(error, OSError) else error.__context__, "errno", None)
    words = os.strerror(number) if number else _in_words(error)
    if number and number not in FULL:
        return words
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(folder).free
    said = f"{free:,} bytes are free in {folder}"
    if needed is not None:
        said += f" and {needed:,} are needed"
    return f"{words}; {said}: make room there{AGAIN}"


def going_on(error: DiskError) -> str:
    """Return why something could not be written, where that ends nothing."""
    return str(error).removesuffix(AGAIN)


def is_about_writing(error: OSError | RuntimeError) -> bool:
    """Return whether an error is one of the system, or torch's error on writing a file."""
    return isinstance(error, OSError) or any(word in str(error) for word in TORCH_WRITER)


def _in_words(error: OSError | RuntimeError) -> str:
    if not isinstance(error, OSError) and is_about_writing(error):
        return "not all of it was taken"  # torch counts positions in lines of C++
    return " ".join(str(error).split())


class NotAFileError(OSError):
    """A path is a pipe, a socket or a device; `strerror` says which."""


def check_regular(path: Path) -> None:
    """Refuse a path that is neither a file nor a folder: opening a pipe may wait for ever.

    Raises:
        NotAFileError: the path is a pipe, a socket or a device.
        OSError: it does not exist.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise NotAFileError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file's content.

    Args:
        path: The file.
        progress: Takes the number of bytes read since it was last called.
    """
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while some := file.read(HASHED_AT_ONCE):
            digest.update(some)
            if progress is not None:
                progress(len(some))
    return digest.hexdigest()


@contextlib.contextmanager
def held(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of the file `path`, whose folder is made if needed.

    The system releases the lock of a killed process. If the file system has no locks, a second
    file that names its owner takes their place; one left by a killed process is recognised.

    Args:
        path: The lock file. It stays behind: to remove it would make two locks of one.
        wait: Whether to wait for another process that holds it.

    Raises:
        BlockingIOError: another process holds it, and this one is not to wait.
        OSError: the file cannot be made or opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a"))
        if not _flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
            log.warning(
                "%s is on a file system without locks, as one mounted without `flock`; "
                "the lock file %s is used instead",
                path.parent,
                _owner_file(path).name,
            )
            stack.enter_context(_own(_owner_file(path), wait=wait))
        yield


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of the file `path`.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            if _flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB):
                return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    owner = _owner_file(path)
    seen = _look(owner)
    return seen is not None and _owner_lives(owner, seen)


def _flock(number: int, operation: int) -> bool:
    """Lock an open file; return False where the file system has no locks."""
    try:
        fcntl.flock(number, operation)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _owner_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


@contextlib.contextmanager
def _own(path: Path, *, wait: bool) -> Iterator[None]:
    """Make a file that names this process as the owner, and touch it while the block lasts."""
    me = f"{this_place()} {os.getpid()} {start_time('self')} {time.time_ns()}"
    while not _claim(path, me):
        seen = _look(path)
        if seen is None:
            continue
        if not _owner_lives(path, seen):
            _remove(path, seen[0])
        elif not wait:
            raise BlockingIOError(errno.EAGAIN, "another process owns it", str(path))
        else:
            time.sleep(BEAT_SECONDS / 10)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, me, ended), name="lock file", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _names(path, me):
            path.unlink(missing_ok=True)


def _claim(path: Path, me: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(me)
    except FileExistsError:
        return False
    time.sleep(BEAT_SECONDS / 10)  # in which `_remove` puts back what it has moved by mistake
    return _names(path, me)


def _remove(path: Path, dead: str) -> None:
    """Remove a lock file, unless another process took the place of its dead owner meanwhile."""
    aside = path.with_name(f"{path.name}.{uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)  # of those who try, one succeeds
        if _names(aside, dead):
            aside.unlink()
        else:
            aside.rename(path)


def _names(path: Path, owner: str) -> bool:
    seen = _look(path)
    return seen is not None and seen[0] == owner


def _beat(path: Path, me: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            if _names(path, me):  # else another one would be taken for alive
                os.utime(path)


def _owner_lives(path: Path, seen: tuple[str, int]) -> bool:
    """Return whether the owner of a lock file is alive, of which `_look` returned `seen`.

    For a process of this machine the process table says so. For any other, the file is watched
    until it is touched; clocks of two machines are never compared.
    """
    match seen[0].split():
        case [place, pid, started, _] if place == this_place():
            return start_time(pid) == started
    until = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 10)
        now = _look(path)
        if now != seen:
            return now is not None
    return False


def _look(path: Path) -> tuple[str, int] | None:
    """Return the content of a file and when it was touched; None if there is none."""
    try:
        # On NFS, opening asks the server.
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
