"""Reads again what could not be read, and later where that may help.

The files are opened anew for that: a store closes them where it cannot read.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from dpot_scale.data.store.faults import may_pass
from dpot_scale.errors import DataError, MachineError

T = TypeVar("T")

WAITS = (1.0, 5.0, 15.0)  # seconds, for storage that is away or a machine that lacks something
MOST_IN_VAIN = 3  # in a row: then a disk is broken, and each of its windows would cost as long

log = logging.getLogger(__name__)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class Patience:
    """Calls a function again where it cannot read.

    Args:
        gives_up: Waits for so many seconds, and returns whether to wait no longer.
    """

    def __init__(self, gives_up: Callable[[float], bool] = _sleep) -> None:
        self._gives_up = gives_up
        self._in_vain = 0  # how often in a row waiting did not help

    def read(self, read: Callable[[], T]) -> T:
        """Return what `read` returns.

        Raises:
            DataError, MachineError: as it raised it last.
        """
        try:
            return read()
        except (DataError, MachineError) as error:
            if not may_pass(error) or self._in_vain == MOST_IN_VAIN:
                return read()
            log.warning("%s; trying again for %.0f seconds", error, sum(WAITS))
            failure = error
        self._in_vain += 1
        found = self._awaited(read, failure)
        self._in_vain = 0
        return found

    def _awaited(self, read: Callable[[], T], failure: DataError | MachineError) -> T:
        for seconds in WAITS:
            if self._gives_up(seconds):
                break
            try:
                return read()
            except (DataError, MachineError) as error:
                failure = error
                if not may_pass(error):
                    break
        raise failure
