"""The one way in which entries have commands, options and help."""

from argparse import ArgumentTypeError, Namespace

import pytest

from dpot_scale.config.arguments import Entry, add_config_arguments, positive_number

WORDS = {"plan": "print it", "run": "do it"}


def with_words(seen: list[Namespace]) -> Entry:
    entry = Entry("sweep", "Do something.", lambda options: seen.append(options) or 0)
    entry.add_words(WORDS, default="run")
    add_config_arguments(entry, "sweep", example="a=1")
    return entry


@pytest.mark.parametrize(
    ("argv", "command", "overrides"),
    [
        ([], "run", []),
        (["plan"], "plan", []),
        (["a=1", "plan", "--config", "paper", "b=2"], "plan", ["a=1", "b=2"]),
        (["a=1"], "run", ["a=1"]),
    ],
)
def test_a_word_may_stand_anywhere(argv: list[str], command: str, overrides: list[str]) -> None:
    seen: list[Namespace] = []
    assert with_words(seen).run(argv) == 0
    assert [(options.command, options.overrides) for options in seen] == [(command, overrides)]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["rnu"], "there is no command 'rnu' (did you mean 'run'?); choose from: plan, run"),
        (["plan", "run"], "give one command, not plan and run"),
        (
            ["plan", "small"],
            "`plan` is followed by no 'small': settings are written as key=value, such as "
            "name=small",
        ),
        (["--confg", "x"], "there is no option '--confg' (did you mean '--config'?)"),
    ],
)
def test_a_mistake_is_a_sentence(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        with_words([]).run(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_a_command_has_arguments_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    entry = Entry("prepare", "Do something.")
    entry.add_command("list", "show it", lambda options: options.number).add_argument(
        "--number", type=int, default=3
    )
    assert entry.run(["list"]) == 3
    assert entry.run(["list", "--number", "4"]) == 4
    with pytest.raises(SystemExit):
        entry.run([])
    assert capsys.readouterr().err == "error: give a command: list\n"


def test_the_help_wraps_paragraphs_and_keeps_lists(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    entry = Entry("prepare", f"A long description. {'word ' * 20}\n  as it is   here\nThe end.")
    with pytest.raises(SystemExit):
        entry.run(["--help"])
    shown = capsys.readouterr().out
    assert "\n  as it is   here\nThe end.\n" in shown
    assert max(map(len, shown.splitlines())) < 60


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "many"])
def test_what_is_no_positive_number_is_refused(text: str) -> None:
    assert positive_number("2.5") == 2.5
    with pytest.raises(ArgumentTypeError, match=f"'{text}' is no positive number"):
        positive_number(text)
