"""What a rank says that lost another one: a sentence in place of the errors of gloo and NCCL."""

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

from torch import distributed as dist

from dpot_scale.errors import LostPeerError, memory_was_refused

# What gloo says, which raises a RuntimeError like any other.
OF_GLOO = ("gloo/transport", "gloo/rendezvous", "Connection closed by peer", "[enforce fail at")
# What NCCL says of others, not of its own use.
OF_NCCL = ("remote", "system error", "connection", "timeout", "timed out", "aborted", "socket")
REFUSED = "Connection refused"
CONNECTING = "connectFullMesh"
WAITS_OF_GLOO = 5  # so many times its timeout gloo waits for a connection where it makes a group
TIMED_OUT = re.compile(r"timed? ?out|timeout", re.IGNORECASE)
# A line of the source of gloo or torch, and what else a reason begins with in brackets.
WHERE = re.compile(r"^\[[^\]]*\]\s*|\[[^\]]*\.(?:cc|h):\d+\]\s*")
REASON_LENGTH = 120  # characters of what the library said
GO_ON = "start the run again to continue from its last checkpoint"


@contextlib.contextmanager
def lost_peers_named(
    patience: timedelta, what_to_do: str = GO_ON, limit: str | None = "limits.collective"
) -> Iterator[None]:
    """Raise a sentence where a collective call in the block fails because of another rank.

    So it is where the ranks begin, if not all of them come.

    The launcher soon ends what is left of the ranks. From then on this process ignores its SIGTERM,
    so that it can say and record why it ends.

    Args:
        patience: How long a rank waits for the others.
        what_to_do: The end of the sentence.
        limit: The field of the config that says the patience; None: none does.

    Raises:
        LostPeerError: another rank ended, or did not answer within the patience.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_of_lost_peer(error):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise LostPeerError(_sentence(error, patience, limit, what_to_do)) from error


def is_of_lost_peer(error: BaseException) -> bool:
    """Return whether an error of a collective call speaks of another rank."""
    text = str(error)
    if memory_was_refused(error):  # which the C++ of torch says in the words of gloo
        return False
    if isinstance(error, dist.DistStoreError | dist.DistNetworkError):
        return True
    if isinstance(error, dist.DistBackendError):
        return any(sign in text.lower() for sign in OF_NCCL)
    return isinstance(error, RuntimeError) and any(sign in text for sign in OF_GLOO)


def reason(error: BaseException) -> str:
    """Return what a library said of another rank, in one short line."""
    line = (str(error).strip().splitlines() or [""])[0]
    return WHERE.sub("", line).rstrip(". ")[:REASON_LENGTH]


def _sentence(error: Exception, patience: timedelta, limit: str | None, what_to_do: str) -> str:
    minutes = patience.total_seconds() / 60
    who = f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}"
    if REFUSED in str(error):
        what = "cannot connect to another rank"
    elif CONNECTING in str(error):
        times = f", {WAITS_OF_GLOO} times {limit}," if limit else ""
        what = f"tried for {WAITS_OF_GLOO * minutes:g} minutes{times} to connect to another rank"
    elif TIMED_OUT.search(str(error)):
        named = f" ({limit})" if limit else ""
        what = f"waited {minutes:g} minutes{named} in vain for another rank"
    else:
        what = "lost the connection to another rank, which ended, or its machine or network did"
    return f"{who} {what} ({reason(error)}); {what_to_do}"
