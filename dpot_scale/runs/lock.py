"""Allows one training per run directory: two would remove each other's checkpoints."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dpot_scale.config.places import LOCK
from dpot_scale.engine.runtime import World, any_rank
from dpot_scale.errors import ConfigError
from dpot_scale.files import held


@contextlib.contextmanager
def only_run_in(directory: Path, world: World) -> Iterator[None]:
    """Make the directory of a run and hold its lock, which the system releases after a kill.

    Collective: every rank must enter it.

    Raises:
        ConfigError: the directory cannot be written, or another process trains in it.
    """
    with contextlib.ExitStack() as stack:
        problem = _hold(directory, stack) if world.is_main else None
        if any_rank(problem is not None, world):
            raise ConfigError(problem or f"the main rank cannot use {directory}")
        yield


def _hold(directory: Path, stack: contextlib.ExitStack) -> str | None:
    """Return why the directory cannot be held, or None."""
    try:
        stack.enter_context(held(directory / LOCK, wait=False))
    except BlockingIOError:
        return (
            f"another process is training in {directory}; wait until it ends, or choose another "
            "`name`"
        )
    except OSError as error:
        return f"cannot write to {directory}: {error.strerror}; choose another `output`"
    return None
