"""How far an import is, in lines where there is no terminal, and as a bar where there is one."""

from contextlib import closing
from pathlib import Path

import pytest

from dpot_scale.data.importers import progress as progress_module
from dpot_scale.data.importers.progress import MIB, ByteProgress

FILES = (Path("a.h5"), Path("b.h5"))


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_lines_tell_the_file_the_bytes_and_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(ByteProgress(400 * MIB, 2)) as progress:
        for file in FILES:
            for _ in range(2):
                clock.now += 60
                progress(file, 100 * MIB)
    assert capsys.readouterr().out.splitlines() == [
        "file 1 of 2, a.h5: 100 of 400 MiB, 180 s left",
        "file 1 of 2, a.h5: 200 of 400 MiB, 120 s left",
        "file 2 of 2, b.h5: 300 of 400 MiB, 60 s left",
    ]


def test_a_short_import_says_nothing_on_the_way(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(ByteProgress(100, 1)) as progress:
        for _ in range(100):
            clock.now += 0.04
            progress(FILES[0], 1)
    assert capsys.readouterr().out == ""


def test_a_long_import_says_at_most_nine_lines(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(ByteProgress(1000, 1)) as progress:
        for _ in range(1000):
            clock.now += 60
            progress(FILES[0], 1)
    assert len(capsys.readouterr().out.splitlines()) == 9


def test_a_terminal_has_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with closing(ByteProgress(400 * MIB, 2)) as progress:
        progress(FILES[1], 100 * MIB)
    shown = capsys.readouterr().out
    assert "100.0/400.0 MiB" in shown
    assert "file 1 of 2, b.h5" in shown
