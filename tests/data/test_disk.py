"""Files that are whole or not there, and why one could not be written."""

import errno
import json
from pathlib import Path

import pytest

from dpot_scale.data.disk import cannot_write, write_json


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": 2, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    write_json(path, {"a": 3})
    assert json.loads(path.read_text()) == {"a": 3}


def test_the_reason_is_that_of_the_system() -> None:
    error = OSError(errno.ENOSPC, "Can't write data (file write failed: time = ...\n, filename")
    assert str(cannot_write(Path("a.h5"), error)) == (
        "cannot write a.h5: No space left on device; is there space on the disk?"
    )


def close_after_a_failed_write() -> None:
    try:
        raise OSError(errno.ENOSPC, "Can't write data")
    finally:
        raise RuntimeError("Can't decrement id ref count")


def test_closing_a_file_does_not_hide_the_reason() -> None:
    with pytest.raises(RuntimeError) as caught:
        close_after_a_failed_write()
    assert "No space left on device" in str(cannot_write(Path("a.h5"), caught.value))


def test_without_a_reason_of_the_system_there_is_the_message_in_one_line() -> None:
    error = RuntimeError("Can't close file\n, filename = 'a.h5'")
    assert "a.h5: Can't close file , filename = 'a.h5'; is" in str(
        cannot_write(Path("a.h5"), error)
    )
