"""Work that a thread does while training goes on."""

import threading
from collections.abc import Callable


class Background:
    """Something that a thread does, from now on.

    Args:
        act: Does it. What it raises is raised by `finish`.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._error: BaseException | None = None
        # A process that fails must be able to end while a rank waits for another one in here.
        self._thread = threading.Thread(target=self._run, name="save", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether it has raised something, which `finish` would raise."""
        return self._error is not None

    def finish(self) -> None:
        """Wait until it is done; raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
