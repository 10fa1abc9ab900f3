"""Mistakes are one sentence and exit code 2; bugs keep their traceback."""

import pytest

from dpot_scale.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    SharedDataError,
    UserError,
    exits_cleanly,
    shortened,
)


def raising(error: BaseException) -> int:
    @exits_cleanly
    def main() -> int:
        raise error

    return main()


@pytest.mark.parametrize("kind", [UserError, ConfigError, DataError, CheckpointError])
def test_a_mistake(kind: type[UserError], capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(kind("what, where, what to do")) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: what, where, what to do\n")


@pytest.mark.parametrize(
    ("kind", "spoken"), [(ConfigError, False), (DataError, True), (SharedDataError, False)]
)
def test_other_ranks_repeat_no_mistake_that_all_make(
    kind: type[UserError],
    spoken: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "3")
    assert raising(kind("sentence")) == 2
    assert capsys.readouterr().err == ("error: sentence\n" if spoken else "")


def test_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert raising(KeyboardInterrupt("interrupted at noon")) == 130
    assert capsys.readouterr().err == "interrupted at noon\n"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


def test_success_keeps_its_exit_code_and_name() -> None:
    @exits_cleanly
    def main(code: int) -> int:
        return code

    assert main(0) == 0
    assert main(code=7) == 7
    assert main.__name__ == "main"


def test_a_command_with_a_hundred_names_is_said_by_how_it_begins() -> None:
    short = "python -m dpot_scale.sweep run --config ladder.yaml"
    assert shortened(short) == short
    names = [f"E64_w4096_{number:06}" for number in range(100)]
    assert shortened(" ".join([short, *names])) == (
        f"the same command, {short} {' '.join(names[:6])} ... (94 more words)"
    )
