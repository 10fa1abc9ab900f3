"""Why a run ended: one word, the tag `stop`, and a sentence, the tag `stop_reason`."""

from typing import Literal, get_args

from dpot_scale.errors import UserError, memory_was_refused, without_secrets

STOP_TAG = "stop"
REASON_TAG = "stop_reason"
SEPARATOR = ": "

Word = Literal[
    "finished",
    "signal",  # also Ctrl-C
    "wall_clock",  # limits.wall_clock
    "preempted",  # its node was about to be taken away
    "orphaned",  # its launcher was killed
    "told",  # by whoever called it
    "cancelled",  # a trial, by the user
    "diverged",
    "out_of_memory",
    "lost_peer",  # another rank ended or did not answer
    "hung",  # no rank moved, or one of them did not
    "bad_data",
    "machine",  # it lacked memory or open files to read the data, which may be intact
    "disk",  # it is full, or cannot be written
    "failed",  # in any other way
    "killed",  # nobody was there to say why
]
# Words of earlier versions, whose records are sent to MLflow now.
EARLIER: dict[str, Word] = {"interrupted": "signal"}


def word_of(error: BaseException) -> str:
    """Return in one word how an error ended a run."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "signal"
    said: str | None = getattr(error, "stop", None)  # by a `UserError`, and by the end of a trial
    return said or ("out_of_memory" if memory_was_refused(error) else "failed")


def described(error: BaseException) -> str:
    """Return for a record how an error ended a run: the word, and what the error says."""
    reason = without_secrets(str(error))  # of a library it may hold the address of a server
    if not reason and not isinstance(error, UserError | KeyboardInterrupt | SystemExit):
        reason = type(error).__name__
    return word_of(error) + f"{SEPARATOR}{reason}" * bool(reason)


def tags_of(stop: str, status: str) -> dict[str, str]:
    """Return the tags for what a record says; an earlier attempt may have left a reason.

    Args:
        stop: What `described` returned, now or in an earlier version; empty: the status says it.
        status: That of the MLflow run.
    """
    word, _, reason = stop.partition(SEPARATOR)
    word = EARLIER.get(word, word)
    if not word:
        word = status.lower()
    elif word not in get_args(Word):
        word, reason = "failed", stop
    return {STOP_TAG: word, REASON_TAG: reason}
