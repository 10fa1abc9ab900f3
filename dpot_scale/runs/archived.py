"""Sends to the archive what it lacks of runs that have come to their end."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from dpot_scale.checkpoints.archive import Archive, Sent, UnreachableError
from dpot_scale.checkpoints.checkpoint import Checkpoint, checkpoint_name, committed
from dpot_scale.config.places import CHECKPOINTS, LOCK
from dpot_scale.config.run import CheckpointConfig, RunConfig
from dpot_scale.errors import UserError
from dpot_scale.files import held
from dpot_scale.terminal import under_way

log = logging.getLogger(__name__)


def complete_archives(runs: Iterable[RunConfig], say: Callable[[str], None]) -> None:
    """Send what the archives of runs lack, as where they could not be reached when a run ended.

    A run that has not come to its end is left out, as it does so itself when it goes on, and so is
    one whose newest checkpoint somebody has removed, and one that another process holds. Where an
    archive does not answer, this warns and asks nothing more.

    Args:
        runs: The runs, with absolute paths.
        say: Takes a sentence that says what was sent of a run, where that was something.
    """
    for config in runs:
        newest = _at_the_end(config)
        if config.checkpoint.archive is None or newest is None:
            continue
        try:
            with held(config.directory / LOCK, wait=False), under_way("looking into the archive"):
                sent = _complete(config.directory, config.checkpoint, newest)
        except BlockingIOError:  # who holds it sends it
            continue
        except OSError as error:
            log.warning("cannot hold %s to complete its archive: %s", config.directory, error)
            continue
        except UnreachableError as error:
            log.warning("%s; to try it again, start this again", error)
            return  # or each of the others would wait as long
        except UserError as error:
            log.warning("%s", error)
            continue
        names = [checkpoint_name(step) for step in sent.steps]
        names += ["the newest records"] * bool(sent.record_bytes)
        if names:
            say(f"sent {', '.join(names)} of {config.directory} to checkpoint.archive")


def _at_the_end(config: RunConfig) -> Checkpoint | None:
    """Return the checkpoint of the last step of a run; None where its disk has none."""
    try:
        found = committed(config.directory / CHECKPOINTS)
    except UserError as error:
        log.warning("%s", error)
        return None
    return found[0] if found and found[0].state.step == config.steps else None


def _complete(directory: Path, config: CheckpointConfig, newest: Checkpoint) -> Sent:
    assert config.archive is not None
    archive = Archive(config.archive, directory.name, newest.marker.identity)
    return archive.sync(directory / CHECKPOINTS, config)
