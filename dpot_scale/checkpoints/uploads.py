"""Keeps an archive up to date while training goes on."""

import logging
import threading
import time
from collections.abc import Callable

from dpot_scale.checkpoints.archive import Sent

log = logging.getLogger(__name__)


class Uploads:
    """Calls `sync` from a thread; what fails is tried again at the next commit.

    Args:
        sync: Brings the archive up to date, and returns what was copied.
    """

    def __init__(self, sync: Callable[[], Sent]) -> None:
        self._seconds: float | None = None
        self._problem: Exception | None = None
        self._sync = sync
        self._due = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def take_seconds(self) -> float | None:
        """Return how long the newest upload of a checkpoint took; None where none ended since."""
        seconds, self._seconds = self._seconds, None
        return seconds

    def wake(self) -> None:
        """Say that there is a new checkpoint."""
        self._due.set()

    def close(self) -> Exception | None:
        """Wait until the archive is up to date, or has failed once more; return why."""
        self._ended = True
        self._due.set()
        self._thread.join()
        return self._problem

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._due.wait()
            self._due.clear()
            is_last = self._ended
            started = time.perf_counter()
            try:
                sent = self._sync()
            except Exception as error:
                if is_last:
                    self._problem = error  # whoever closes says more of it
                else:
                    log.warning("%s", error)
            else:
                if sent.steps:
                    self._seconds = time.perf_counter() - started
