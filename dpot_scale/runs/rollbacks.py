"""How often a run went back to a checkpoint, and the windows that it skips since: in its folder.

The record is on the disk before the run goes back, so an attempt that is killed after that skips
the same windows.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dpot_scale.config.base import NonNegativeInt, Section
from dpot_scale.config.places import ROLLBACKS
from dpot_scale.config.record import Record, read_kept
from dpot_scale.config.run import RunConfig
from dpot_scale.data.stream.mixture import Mixture
from dpot_scale.data.stream.spans import Span, after_skips, merged
from dpot_scale.engine.collectives import from_main, on_main
from dpot_scale.engine.runtime import World
from dpot_scale.files import write_whole
from dpot_scale.training.loop import Trouble

NAMED_WINDOWS = 4  # of a skipped stretch, in a sentence


class Rollback(Section):
    """One return to a checkpoint."""

    step: NonNegativeInt  # that the run had come to
    first: NonNegativeInt  # position of the stream
    end: NonNegativeInt  # the position behind the last one that is skipped
    reason: str


class RollbackRecord(Record):
    """All rollbacks of a run."""

    rollbacks: tuple[Rollback, ...] = ()


class Rollbacks:
    """The rollbacks of a run. Every rank has one, and calls it together with the others.

    Args:
        config: The run.
        world: The ranks.

    Raises:
        RecordError: the record cannot be read.
    """

    def __init__(self, config: RunConfig, world: World) -> None:
        self._path = config.directory / ROLLBACKS
        self._most = config.limits.rollbacks
        self._batch = config.batch.global_batch
        self._world = world
        read = partial(read_rollbacks, config.directory)
        self.made: list[Rollback] = from_main(read, world, self._path)

    @property
    def skipped(self) -> tuple[Span, ...]:
        """The positions that the run skips."""
        return merged(Span(one.first, one.end) for one in self.made)

    @property
    def are_left(self) -> bool:
        """Whether the run may go back once more."""
        return len(self.made) < self._most

    def of(self, trouble: Trouble) -> Rollback:
        """Return the rollback that would skip the steps of a trouble."""
        return Rollback(
            step=trouble.steps.stop,
            first=self._position(trouble.steps.start),
            end=self._position(trouble.steps.stop - 1) + self._batch,
            reason=trouble.words,
        )

    def add(self, rollback: Rollback) -> None:
        """Record that the run goes back. Collective."""
        self.made.append(rollback)
        record = RollbackRecord(rollbacks=tuple(self.made))
        content = record.model_dump_json(indent=2)
        on_main(lambda: write_whole(self._path, content), self._world, self._path)

    def _position(self, step: int) -> int:
        return after_skips(step * self._batch, self.skipped)


def read_rollbacks(directory: Path) -> list[Rollback]:
    """Return the rollbacks of the run in a folder.

    Raises:
        RecordError: the record is damaged, or another version wrote it.
    """
    about = (
        "which says what windows the run skips: restore it, or remove the folder of the run to "
        "begin anew"
    )
    return list(read_kept(RollbackRecord, directory / ROLLBACKS, about).rollbacks)


def describe(rollback: Rollback, mixture: Mixture) -> str:
    """Return in words which windows a rollback skips."""
    positions = range(rollback.first, rollback.end)
    windows = [mixture.locate(position) for position in positions[:NAMED_WINDOWS]]
    named = [f"{name} trajectory {cut.trajectory} from frame {cut.start}" for name, cut in windows]
    more = [f"and {len(positions) - len(windows)} more"] if len(positions) > len(windows) else []
    return f"windows {rollback.first} to {rollback.end - 1} ({', '.join([*named, *more])})"


def all_described(rollbacks: Sequence[Rollback], mixture: Mixture) -> str:
    """Return what a run skipped in vain, in brackets; empty if it never went back."""
    if not rollbacks:
        return ""
    times = "once" if len(rollbacks) == 1 else f"{len(rollbacks)} times"
    skipped = "; ".join(describe(one, mixture) for one in rollbacks)
    return f" (it had gone back {times} and skipped {skipped})"
