"""Errors a user can mend, and the one place where they become an exit code.

Everything a user does wrong raises a `UserError`: one clear sentence that says what, where and
what to do. Our own impossible states are `assert`s.
"""

import contextlib
import errno
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TextIO

P = ParamSpec("P")

USER_ERROR_EXIT_CODE = 2
LONGEST_COMMAND = 1000  # characters of what is repeated whole; a hundred names of trials are more
SHOWN_WORDS = 12  # of a longer one
# In an address: the user and password before the host, and what a query says of a secret. A model
# of MLflow's registry may be models:/NAME@ALIAS. Paths have lost one slash behind the scheme.
USER_IN_ADDRESS = re.compile(r"(?<=:/)(?<!models:/)/?[^/\s@]+@|[^\s/@=:'\"]+:[^\s/@]+@(?=[\w.\[])")
SECRET_IN_ADDRESS = re.compile(
    r"(?<=[?&])([\w-]*(?:token|pass|pwd|secret|key|signature)[\w-]*=)[^\s&;'\"]+", re.I
)
# How memory is refused, in small letters: by the C library and oneDNN, by CUDA, cuBLAS, cuDNN and
# NCCL, which allocate beside torch. Only torch has an error of its own for it.
REFUSALS = (
    "can't allocate",
    "cannot allocate",
    "bad_alloc",
    "could not create a memory",
    "out of memory",
    "alloc_failed",
    "failed to cuda calloc",
    "failed to cuda malloc",
)


SENTENCE_END = re.compile(r"\.\s+|\.$")
SENTENCES_OF_REFUSAL = 3  # how much was asked for, and how much there is; what follows is advice


class UserError(Exception):
    """One sentence for the user: what is wrong, where, and what to do.

    It is printed, logged and kept, so it repeats no password of an address.

    Attributes:
        stop: How it is recorded that it ended a run, in one word.
    """

    stop = "failed"

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class ConfigError(UserError):
    """A config, preset or override that cannot be used."""


class DataError(UserError):
    """A dataset or source file that cannot be used."""

    stop = "bad_data"


class CheckpointError(UserError):
    """A checkpoint or weights file that cannot be used."""


class SharedDataError(DataError):
    """A dataset that cannot be used, after all ranks were told: only one of them prints it."""


class MachineError(UserError):
    """What a machine cannot read or write now: it lacks memory or files, or its storage is away.

    That says nothing of the data, which may be intact: it may be tried again.
    """

    stop = "machine"


class SharedMachineError(MachineError):
    """What one machine cannot read now, after all ranks were told: only one of them prints it."""


class RecordError(UserError):
    """A record that a run or sweep wrote, such as its result, and that cannot be read."""


class DiskError(UserError):
    """A file or folder that cannot be written, or a disk that is full."""

    stop = "disk"


class LostPeerError(UserError):
    """Another rank ended or does not answer, which is no mistake: the run may be tried again."""

    stop = "lost_peer"


class DeviceError(ConfigError):
    """A rank whose machine lacks a device for it, or what compiles for one: others may have it."""


class ShortMemoryError(UserError):
    """A device or machine that has less memory than a run needs of it."""

    stop = "out_of_memory"


class BusyError(UserError):
    """Another process holds what is needed: it may be tried again once that one has ended."""


OF_ONE_RANK = (DataError, MachineError, DeviceError, ShortMemoryError, LostPeerError)


def memory_was_refused(error: BaseException) -> bool:
    """Return whether an error means that there was not enough memory, of a host or a device."""
    refused = any(words in str(error).lower() for words in REFUSALS)
    return refused or isinstance(error, MemoryError)


@contextlib.contextmanager
def short_memory_named(what: str, advice: str) -> Iterator[None]:
    """Make one sentence of an error by which memory is refused in a block.

    Args:
        what: What asked for it.
        advice: What to do.

    Raises:
        ShortMemoryError: it was refused.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not memory_was_refused(error):
            raise
        said = SENTENCE_END.split(" ".join(str(error).split()))
        reason = ". ".join(said[:SENTENCES_OF_REFUSAL]) or type(error).__name__
        raise ShortMemoryError(f"{what} ran out of memory ({reason}): {advice}") from error


def without_secrets(text: str) -> str:
    """Return a text without the passwords and tokens of the addresses in it."""
    return SECRET_IN_ADDRESS.sub(r"\1...", USER_IN_ADDRESS.sub(_hidden, text))


def _hidden(user: re.Match[str]) -> str:
    return "/...@" if user[0].startswith("/") else "...@"


def speaks_for_all() -> bool:
    """Return whether this process is the first rank of its launcher, or has no launcher."""
    return os.environ.get("RANK", "0") == "0"


def this_command() -> str:
    """Return the command that started this process, as one types it into a shell.

    Without the secrets of addresses: it is recorded.
    """
    return without_secrets(shlex.join(sys.orig_argv))


def shortened(command: str) -> str:
    """Return a command for a sentence: a very long one by how it begins."""
    if len(command) <= LONGEST_COMMAND:
        return command
    words = command.split(" ")
    begins, more = " ".join(words[:SHOWN_WORDS]), len(words) - SHOWN_WORDS
    return f"the same command, {begins} ... ({more} more words)"


@contextlib.contextmanager
def unread_output_ends_nothing() -> Iterator[None]:
    """Go on where the output takes no more: its disk is full, or nobody reads it.

    What reads a pipe may have ended, and a terminal may be gone. From then on the output goes
    nowhere: what libraries print would raise the same again, and so would the end of the process.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.EPIPE, errno.EIO}:
            _send_nowhere(sys.stdout)


def _send_nowhere(stream: TextIO) -> None:
    """Let a stream take whatever follows, and what it still holds: some Pythons end by that."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # it is no file, as in a notebook
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def exits_cleanly(main: Callable[P, int]) -> Callable[P, int]:
    """Turn a `UserError` into one line on stderr and exit code 2, without a traceback."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        _open_streams()
        try:
            return main(*args, **kwargs)
        except UserError as error:
            # The ranks find the same mistakes, so one says it. Only a file, a machine, a device or
            # a peer may fail a single rank.
            of_one_rank = isinstance(error, OF_ONE_RANK)
            is_shared = isinstance(error, SharedDataError | SharedMachineError)
            if speaks_for_all() or (of_one_rank and not is_shared):
                _complain(f"error: {error}")
            return USER_ERROR_EXIT_CODE
        except KeyboardInterrupt as interrupt:
            _complain(str(interrupt) or "interrupted")
            return 130
        finally:
            with unread_output_ends_nothing():
                sys.stdout.flush()

    return wrapped


def _open_streams() -> None:
    """Give the standard streams that were closed at the start, as by `>&-`, a place: nowhere.

    Python has None for them. Their numbers are the lowest that are free, so the next files that are
    opened would get them, and what a library or a child process prints would be written there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - until the end


def _complain(sentence: str) -> None:
    try:
        sys.stderr.write(f"{sentence}\n")
    except OSError:  # nobody reads it, and the exit code stays what it is
        _send_nowhere(sys.stderr)
