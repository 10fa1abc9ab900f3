"""Errors a user can mend, and the one place where they become an exit code.

Everything a user does wrong raises a `UserError`: one clear sentence that says what, where and
what to do. Our own impossible states are `assert`s.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

USER_ERROR_EXIT_CODE = 2


class UserError(Exception):
    """One sentence for the user: what is wrong, where, and what to do."""


class ConfigError(UserError):
    """A config, preset or override that cannot be used."""


class DataError(UserError):
    """A dataset or source file that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or weights file that cannot be used."""


def exits_cleanly(main: Callable[P, int]) -> Callable[P, int]:
    """Turn a `UserError` into one line on stderr and exit code 2, without a traceback."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            # Every rank reads the same config and finds the same mistake: one says it.
            if os.environ.get("RANK", "0") == "0" or not isinstance(error, ConfigError):
                sys.stderr.write(f"error: {error}\n")
            return USER_ERROR_EXIT_CODE
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            return 130

    return wrapped
