"""Keeps an archive up to date while training goes on."""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Uploads:
    """Calls `sync` from a thread; what fails is tried again at the next commit.

    Args:
        sync: Brings the archive up to date.
    """

    def __init__(self, sync: Callable[[], object]) -> None:
        self.seconds: float | None = None  # that the newest one took
        self._sync = sync
        self._due = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is a new checkpoint."""
        self._due.set()

    def close(self) -> None:
        """Wait until the archive is up to date, or has failed once more."""
        self._ended = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._due.wait()
            self._due.clear()
            is_last = self._ended
            started = time.perf_counter()
            try:
                self._sync()
            except Exception as error:
                log.warning("%s", error)
            else:
                self.seconds = time.perf_counter() - started
