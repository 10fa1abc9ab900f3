"""How long the doctor waits for ranks that do not meet: minutes, where a run waits half an hour.

Gloo and the store give up by themselves after PATIENCE. NCCL may wait for ever for a connection,
which nothing in this process can interrupt: then the process ends, with a sentence.
"""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

from dpot_scale.errors import USER_ERROR_EXIT_CODE

PATIENCE = timedelta(minutes=3)
LAST = timedelta(minutes=4)  # for one part of the checks, after which the process ends
REACH = (
    "the ranks cannot reach each other: open all ports between the nodes, name the interface that "
    "they share in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, and let no /etc/hosts give a node's "
    "own name an address that begins with 127"
)
# torch would end a process whose collective takes too long, without a sentence.
ABORTS = "TORCH_NCCL_ASYNC_ERROR_HANDLING"


@contextlib.contextmanager
def within_patience(doing: str, last: timedelta = LAST) -> Iterator[None]:
    """End this process, with a sentence, if the block does not end in time.

    Args:
        doing: What the block does, for the sentence.
        last: How long it may take.
    """
    os.environ.setdefault(ABORTS, "0")
    timer = threading.Timer(last.total_seconds(), _give_up, (doing, last))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(doing: str, last: timedelta) -> None:
    who = f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}"
    minutes = last.total_seconds() / 60
    sys.stderr.write(f"error: {who} waited {minutes:g} minutes in vain while {doing}: {REACH}\n")
    sys.stderr.flush()
    os._exit(USER_ERROR_EXIT_CODE)
