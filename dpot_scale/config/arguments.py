"""The common part of all command lines. A mistake in one is answered by one sentence.

An entry is a `main(argv)` that makes an `Entry` and returns `entry.run(argv)`: the exit code of the
one function that does what the entry, or the command that was given, is for.
"""

import argparse
import contextlib
import math
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dpot_scale.config.base import possible
from dpot_scale.config.load import DEFAULT, Kind, config_hint, presets
from dpot_scale.config.places import HOME_VARIABLE
from dpot_scale.config.sentences import nearest
from dpot_scale.errors import USER_ERROR_EXIT_CODE, speaks_for_all, without_secrets
from dpot_scale.terminal import begin_command

# Where relative paths of data and results begin, for the end of a help text.
PLACES = (
    f"Relative folders of data and results begin at ${HOME_VARIABLE} if that is set; else at "
    "~/dpot_scale in a Ray job, and here otherwise."
)


SHOWN = 60  # letters of a word that is far too long

Run = Callable[[argparse.Namespace], int]  # what an entry or one of its commands does


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one sentence, which names the nearest known option."""

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401 - as the base
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse unknown options here: the parser of a command knows those of the command."""
        parsed, rest = super().parse_known_args(args, namespace)
        self._refuse_unknown(rest)
        return parsed, rest

    def parse_known_intermixed_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401 - as the base
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse unknown options."""
        parsed, rest = super().parse_known_intermixed_args(args, namespace)
        self._refuse_unknown(rest)
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Exit with a sentence, which only one rank prints."""
        if speaks_for_all():
            sys.stderr.write(f"error: {without_secrets(message)}\n")
        self.exit(USER_ERROR_EXIT_CODE)

    def _refuse_unknown(self, rest: Sequence[str]) -> None:
        for word in rest:
            if word.startswith("-") and word != "--":
                option = word.partition("=")[0]
                known = [word for word in self._option_string_actions if word.startswith("--")]
                self.error(f"there is no option {option!r}{nearest(option, known)}")


class Entry(Parser):
    """The command line of an entry.

    Args:
        name: The module, `dpot_scale.NAME`.
        description: What the entry does. Indented lines of the text stay as they are.
        run: Does it, if the entry has no commands, or only words.
    """

    def __init__(self, name: str, description: str, run: Run | None = None) -> None:
        super().__init__(
            prog=f"python -m dpot_scale.{name}",
            description=description,
            epilog=PLACES,
            formatter_class=_HelpFormatter,
        )
        self.set_defaults(run=run)
        self._commands: argparse._SubParsersAction[Parser] | None = None
        self._words: Mapping[str, str] = {}
        self._with_names: Collection[str] = ()

    def add_command(self, name: str, text: str, run: Run, *, description: str = "") -> Parser:
        """Add a command with arguments of its own; return its parser.

        Args:
            name: The word that a user types first.
            text: What the command does, for the list of commands.
            run: Does it, and returns the exit code.
            description: For the help of the command, if `text` is not enough.
        """
        if self._commands is None:
            self._commands = self.add_subparsers(
                required=True, metavar="COMMAND", parser_class=Parser
            )
        command = self._commands.add_parser(
            name,
            help=text,
            description=description or f"{text[0].upper()}{text[1:]}.",
            formatter_class=_HelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    def add_words(
        self, words: Mapping[str, str], *, default: str, with_names: Collection[str] = ()
    ) -> None:
        """Add commands that share all arguments: one word, anywhere among the overrides.

        Args:
            words: What each does, for the help. `options.command` is then one of them.
            default: The one that is meant where none is given.
            with_names: Those that names follow, which `options.names` then has.
        """
        self._words, self._with_names = words, with_names
        self.set_defaults(command=default, names=[])
        self.usage = (
            f"%(prog)s [{'|'.join(words)}] [--config PATH_OR_PRESET] [--print-config] "
            "[key.sub=value ...]"
        )
        lines = [f"  {word:<8}{text}" for word, text in words.items()]
        self.description = "\n".join([f"{self.description}\n", *lines])

    def run(self, argv: Sequence[str] | None) -> int:
        """Do what a command line says; return the exit code."""
        begin_command()
        words = sys.argv[1:] if argv is None else argv
        self._refuse_impossible(words)
        if self._commands is None:
            options = self.parse_intermixed_args(words)
            self._take_word(options)
        else:
            self._require_command(words, self._commands.choices)
            options = self.parse_args(words)
        run: Run = options.run
        return run(options)

    def _refuse_impossible(self, words: Sequence[str]) -> None:
        """Refuse what can be no file, before anything looks for it: the system would raise."""
        for word in words:
            try:
                possible(Path(word) if "=" not in word else Path())
            except ValueError as error:
                self.error(f"{word[:SHOWN]}...: {error}")

    def _take_word(self, options: argparse.Namespace) -> None:
        """Take the command, if this entry has words for one, out of the overrides."""
        words = [word for word in getattr(options, "overrides", ()) if "=" not in word]
        if not self._words or not words:
            return
        self._require_command(words, self._words)
        options.command, *options.names = words
        if options.names and options.command not in self._with_names:
            if all(word in self._words for word in words):
                self.error(f"give one command, not {' and '.join(words)}")
            name = next(word for word in words if word not in self._words)
            self.error(
                f"`{options.command}` is followed by no {name!r}: settings are written as "
                f"key=value, such as name={name}"
            )
        options.overrides = [word for word in options.overrides if "=" in word]

    def _require_command(self, words: Sequence[str], known: Collection[str]) -> None:
        """Make sure that the first word is one of the commands, unless it is an option."""
        choices = ", ".join(known)
        if not words:
            self.error(f"give a command: {choices}")
        if words[0] not in known and not words[0].startswith("-"):
            hint = config_hint(words[0]) or nearest(words[0], known)
            self.error(f"there is no command {words[0]!r}{hint}; choose from: {choices}")


def positive_number(text: str) -> float:
    """Return the number that an argument stands for: the `type` of an argparse option."""
    number = math.nan
    with contextlib.suppress(ValueError):
        number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return number


def positive_integer(text: str) -> int:
    """Return the whole number that an argument stands for: the `type` of an argparse option."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def hours(text: str) -> float:
    """Return the hours that an argument as 20h, 90min or 3d stands for, for an argparse option."""
    found = re.fullmatch(r"(?P<number>[\d.e+]+)(?P<unit>min|h|d)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90min, 20h or 3d")
    return positive_number(found["number"]) * {"min": 1 / 60, "h": 1.0, "d": 24.0}[found["unit"]]


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps each line of a description by itself, and leaves an indented one as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002 - as the base
        lines = text.splitlines()
        return "\n".join(
            line if line.startswith(" ") else textwrap.fill(line, width) for line in lines
        )


def add_config_arguments(
    parser: argparse.ArgumentParser, *kinds: Kind, example: str, sought_first: str | None = None
) -> None:
    """Add the arguments of every entry: --config, --print-config and overrides.

    Args:
        parser: The parser of the entry.
        kinds: Of what its config may be: a run or a sweep.
        example: An override, for the help.
        sought_first: The config that the entry itself seeks where none is given, in words;
            `config` is then None.
    """
    known = dict.fromkeys(name for kind in kinds for name in presets(kind))
    parser.add_argument(
        "--config",
        default=None if sought_first else DEFAULT,
        metavar="PATH_OR_PRESET",
        help=f"a YAML file, or one of: {', '.join(known)} "
        f"(default: {f'{sought_first}, else {DEFAULT}' if sought_first else DEFAULT})",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the config with every key as YAML, in the form --config accepts, and stop",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # or argparse calls them required where another argument is missing
        metavar="key.sub=value",
        help=f"replace one value of the config, for example {example}",
    )
