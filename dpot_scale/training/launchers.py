"""Whether the launcher of a rank lives: ranks that outlive it would train beside a restart."""

import time

import psutil

# In the command lines of the processes that start ranks and wait for them. A shell is none: a
# training in the background outlives it on purpose.
NAMES = ("deepspeed.launcher", "bin/deepspeed", "torch.distributed.run", "bin/torchrun")
LOOK_SECONDS = 1.0  # between two looks


class Launchers:
    """The launchers above this process, if there are any."""

    def __init__(self) -> None:
        self._processes = [one for one in psutil.Process().parents() if _is_launcher(one)]
        self._next_look = 0.0
        self._is_gone = False

    def are_gone(self) -> bool:
        """Return whether one of them has ended, at most LOOK_SECONDS late."""
        now = time.monotonic()
        if not self._is_gone and now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._is_gone = any(_has_ended(one) for one in self._processes)
        return self._is_gone


def _is_launcher(process: psutil.Process) -> bool:
    try:
        return any(name in word for word in process.cmdline() for name in NAMES)
    except (psutil.Error, OSError):
        return False


def _has_ended(process: psutil.Process) -> bool:
    """Return whether a process is no more, or only waits for its parent to hear of its end."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):  # too many open files: the next look tells
        return False
