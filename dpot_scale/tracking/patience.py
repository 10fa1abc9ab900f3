"""How long anybody waits for MLflow: as long as it answers."""

import threading
import time
from collections.abc import Callable

from dpot_scale.config.places import SQLITE

# How long nothing may come before nobody waits any more: at the end of a run, the mirror and who
# closes the run wait so long each. A database never stalls, but on a busy machine it takes long to
# make one.
SERVER_SECONDS = 3.0
DATABASE_SECONDS = 30.0
MOST_SECONDS = 60.0  # that anybody waits for a server that does answer

Beat = Callable[[], None]  # called at each answer


class Pulse:
    """When MLflow last answered a thread.

    Args:
        uri: The tracking server or sqlite database of MLflow.
    """

    def __init__(self, uri: str) -> None:
        self._quiet = DATABASE_SECONDS if uri.startswith(SQLITE) else SERVER_SECONDS
        self._last = time.monotonic()

    def beat(self) -> None:
        """Note an answer."""
        self._last = time.monotonic()

    def wait_for(self, thread: threading.Thread) -> bool:
        """Wait for a thread to end, as long as answers come; return whether it did."""
        self.beat()
        until = time.monotonic() + MOST_SECONDS
        while thread.is_alive():
            now = time.monotonic()
            left = min(self._last + self._quiet, until) - now
            if left <= 0:
                return False
            thread.join(left)
        return True


def in_time(uri: str, task: Callable[[Beat], None]) -> Exception | None:
    """Do something that waits for MLflow, in a thread that is left behind if no answer comes.

    Args:
        uri: As for `Pulse`.
        task: It gets what it is to call at each answer.

    Returns:
        What it raised, or that it took too long; None if it was done.
    """
    import mlflow.tracking  # noqa: F401  # takes seconds, in which no answer can come

    pulse = Pulse(uri)
    raised: list[Exception] = []

    def run() -> None:
        try:
            task(pulse.beat)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="mlflow", daemon=True)
    thread.start()
    if not pulse.wait_for(thread):
        return TimeoutError("it does not answer")
    return raised[0] if raised else None
