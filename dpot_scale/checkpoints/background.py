"""Work that a thread does while training goes on."""

import threading
from collections.abc import Callable

from dpot_scale.errors import UserError


class Background:
    """Something that a thread does, from now on.

    What it works on is let go when it has ended or failed, though nobody has asked for it yet.

    Args:
        act: Does it. What it raises is raised by `finish`.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        # A process that fails must be able to end while a rank waits for another one in here.
        self._thread = threading.Thread(target=self._run, args=(act,), name="save", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether it has raised something, which `finish` would raise."""
        return self._error is not None

    def finish(self) -> None:
        """Wait until it is done; raise what it raised, once."""
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # which would keep this frame, and this frame it

    def _run(self, act: Callable[[], None]) -> None:
        try:
            act()
        except UserError as error:
            # It may end nothing, and its traceback would keep what was worked on.
            self._error = type(error)(*error.args)
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
