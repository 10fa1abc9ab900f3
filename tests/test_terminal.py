"""Text for a terminal or a pipe."""

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, redirect_stdout

import pytest

from dpot_scale import terminal
from dpot_scale.terminal import Bars, align, begin_command, print_line, under_way


def test_facts_are_aligned() -> None:
    assert align([("a", "1"), ("long", "2")]) == "a     1\nlong  2"


def test_a_full_disk_takes_no_line_and_ends_nothing() -> None:
    code = (
        "import os; from dpot_scale.terminal import print_line\n"
        "print_line('taken by nobody'); print_line('nor this'); os._exit(7)"
    )
    with open("/dev/full", "w") as full:  # noqa: PTH123 - no file
        ended = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (7, b"")


SPEAKS = """
import sys
from dpot_scale.errors import exits_cleanly
from dpot_scale.terminal import Bars, print_line
@exits_cleanly
def main():
    bars = Bars()
    assert bars.are_drawn == (sys.argv[1] == "terminal")
    for step in range(3):
        sys.stdin.readline()
        bars.show("step", step, 3)
        bars.say("a line")
        print_line("another one")
        print("and what a library says")
    bars.close()
    return 7
sys.exit(main())
"""


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_reader_that_is_gone_ends_nothing(kind: str) -> None:
    """As `tee` or `head` behind a pipe, or the terminal of a connection that broke."""
    reader, writer = os.openpty() if kind == "terminal" else os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", SPEAKS, kind],
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm"},
        start_new_session=True,
    ) as process:
        os.close(writer)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert os.read(reader, 1)
        os.close(reader)
        _, said = process.communicate(b"\n\n", timeout=60)
    assert (process.returncode, said) == (7, b"")


def test_the_exit_code_of_a_mistake_stays_where_nobody_hears_it() -> None:
    code = (
        "import sys; from dpot_scale.errors import ConfigError, exits_cleanly\n"
        "@exits_cleanly\ndef main(): raise ConfigError('wrong')\nsys.exit(main())"
    )
    with open("/dev/full", "w") as full:  # noqa: PTH123 - no file
        ended = subprocess.run([sys.executable, "-c", code], stderr=full, check=False)
    assert ended.returncode == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_at_the_start_end_nothing(closed: str) -> None:
    """Nor is what is said written into a file that was opened later."""
    code = (
        "import os, sys\n"
        "from dpot_scale.errors import exits_cleanly\n"
        "from dpot_scale.terminal import Bars, print_error, print_line\n"
        "@exits_cleanly\n"
        "def main():\n"
        "    print_line('a line'); print_error('a problem'); print('another'); Bars().say('more')\n"
        "    with open(os.devnull) as file: assert file.fileno() > 2\n"
        "    return 7\n"
        "sys.exit(main())"
    )
    command = f'exec "$0" -c "$1" {closed}'
    assert subprocess.run(["bash", "-c", command, sys.executable, code]).returncode == 7


def show_two(bars: Bars) -> None:
    bars.show("one", 3, 12, "loss 0.5")
    bars.show("two [a]", 1, 12, "[bold]as it is[/bold]")
    bars.say("a line with [brackets] and 1 number")
    bars.remove("one")
    bars.remove("never shown")


def test_a_pipe_gets_the_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Bars()) as bars:
        assert not bars.are_drawn
        show_two(bars)
    assert capsys.readouterr().out == "a line with [brackets] and 1 number\n"


def draw_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def test_a_terminal_gets_a_bar_for_each_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_on_a_terminal(monkeypatch)
    with closing(Bars()) as bars:
        assert bars.are_drawn
        bars.show("one", 3, 12, "loss 0.5")
        show_two(bars)
    shown = capsys.readouterr().out
    assert "two [a]  1/12" in shown
    assert "[bold]as it is[/bold]" in shown
    assert "a line with [brackets] and 1 number" in shown
    assert "one  3/12" not in shown.splitlines()[-1]


def test_bytes_have_a_binary_unit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_on_a_terminal(monkeypatch)
    with closing(Bars("bytes")) as bars:
        bars.show("read", 2**20, 2**22)
    assert "read 1.0/4.0 MiB" in capsys.readouterr().out


def test_what_draws_nothing_needs_no_rich() -> None:
    code = (
        "import sys; from dpot_scale.terminal import Bars, print_line, table\n"
        "bars = Bars(); bars.show('a', 1, 2); bars.close(); assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(terminal, "LOOK_SECONDS", 0.01)


@pytest.mark.usefixtures("hasty")
def test_what_takes_long_is_said_again_and_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Libraries are kept from printing while they start.
    with under_way("starting Ray"), redirect_stdout(io.StringIO()):
        time.sleep(0.8)
    assert capsys.readouterr().out.splitlines()[:2] == ["starting Ray, 0 s so far"] * 2
    with under_way("scoring", sys.stderr):
        time.sleep(0.5)
    captured = capsys.readouterr()
    assert "scoring, 0 s so far" in captured.err
    assert captured.out == ""
    monkeypatch.setenv("RANK", "1")
    with under_way("starting Ray"):
        time.sleep(0.5)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("hasty")
def test_of_blocks_in_each_other_the_inner_one_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    begin_command()
    with under_way("scoring"):
        with under_way("solving"):
            time.sleep(0.5)
        assert set(capsys.readouterr().out.splitlines()) == {"solving, 0 s so far"}
        time.sleep(0.5)
    assert "scoring, " in capsys.readouterr().out


def test_nothing_is_said_after_another_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a line")
    with under_way("starting Ray"):
        time.sleep(0.01)
    assert capsys.readouterr().out == "a line\n"


@pytest.mark.parametrize("errors", [subprocess.PIPE, None])
def test_a_crash_of_c_code_says_where_it_was(errors: int | None) -> None:
    code = (
        "import ctypes; from dpot_scale.terminal import begin_command\n"
        "def crash(): ctypes.string_at(0)\n"
        "begin_command(); crash()"
    )
    command = [sys.executable, "-c", code]
    if errors is None:  # standard error is closed
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    ended = subprocess.run(command, stderr=errors, text=True)
    assert ended.returncode == -signal.SIGSEGV
    if errors is not None:
        assert "Segmentation fault" in ended.stderr
        assert 'File "<string>", line 2 in crash' in ended.stderr
