"""The windows of a run that could not be read, in its folder: counted, and the same ever after."""

import logging
from collections.abc import Sequence
from functools import partial
from math import floor
from pathlib import Path

from dpot_scale.config.places import QUARANTINE
from dpot_scale.config.record import Record, read_kept
from dpot_scale.config.run import RunConfig
from dpot_scale.data.stream.quarantine import Quarantined
from dpot_scale.engine.collectives import from_main, gathered
from dpot_scale.engine.runtime import World
from dpot_scale.errors import DiskError
from dpot_scale.files import going_on, write_whole

NAMED = 3  # windows in a log, and files in a sentence

log = logging.getLogger(__name__)


class QuarantineRecord(Record):
    """All windows of a run that could not be read, by their positions."""

    windows: tuple[Quarantined, ...] = ()


class Quarantine:
    """The windows of a run that could not be read.

    Every rank has one, and calls it together with the others.

    Args:
        config: The run.
        world: The ranks.

    Attributes:
        excess: What is wrong, if more windows than `limits.unreadable` allows could not be read,
            and one of them in this attempt: a run goes on once its data are mended.

    Raises:
        RecordError: the record cannot be read.
    """

    def __init__(self, config: RunConfig, world: World) -> None:
        self._path = config.directory / QUARANTINE
        self._windows = config.windows
        self._share = config.limits.unreadable
        self._world = world
        found = from_main(partial(read_quarantine, config.directory), world, self._path)
        self._found = {one.position: one for one in found}
        self.excess: str | None = None
        self._is_behind = False  # whether a full disk did not take the record

    def __len__(self) -> int:
        return len(self._found)

    @property
    def stand_ins(self) -> dict[int, int]:
        """The position of the window that is seen in the place of each."""
        return {position: one.stand_in for position, one in self._found.items()}

    def add(self, mine: Sequence[Quarantined]) -> None:
        """Record what the ranks could not read, and trained on others for. Collective.

        Args:
            mine: The windows of this rank.
        """
        of_all = [one for of_rank in gathered(mine, self._world) for one in of_rank]
        of_all.sort(key=lambda one: one.position)
        new = [one for one in of_all if self._found.get(one.position) != one]
        self._found |= {one.position: one for one in new}
        most = floor(self._share * self._windows)
        if new and len(self) > most:
            self.excess = (
                f"{len(self):,} of the {self._windows:,} windows of the run could not be read, "
                f"more than limits.unreadable={self._share:g} of them, in {_files(new)}; first of "
                f"these: {new[0].reason}"
            )
        if new and self._world.is_main:
            self._say(new, most)
            self._write()

    def settle(self) -> None:
        """Record what a full disk did not take before: what a checkpoint was trained on."""
        if self._is_behind:
            self._write()

    def _say(self, new: Sequence[Quarantined], most: int) -> None:
        more = f" (and {len(new) - NAMED} more)" if len(new) > NAMED else ""
        for number, one in enumerate(new[:NAMED], start=1):
            log.warning(
                "window %d, of %s trajectory %d from frame %d, cannot be read, and window %d is "
                "seen in its place%s: %s; %d of at most %d",
                *(one.position, one.dataset, one.trajectory, one.frame, one.stand_in),
                more if number == NAMED else "",
                *(one.reason, len(self), most),
            )

    def _write(self) -> None:
        windows = tuple(self._found[position] for position in sorted(self._found))
        content = QuarantineRecord(windows=windows).model_dump_json(indent=2)
        try:
            write_whole(self._path, content)
        except DiskError as error:  # which a checkpoint would say as well
            if not self._is_behind:
                log.warning("%s; the run goes on", going_on(error))
            self._is_behind = True
        else:
            self._is_behind = False


def read_quarantine(directory: Path) -> list[Quarantined]:
    """Return the windows that the run in a folder could not read.

    Raises:
        RecordError: the record is damaged, or another version wrote it.
    """
    about = (
        "which says what windows the run could not read: restore it, or remove it to have them "
        "looked for anew"
    )
    return list(read_kept(QuarantineRecord, directory / QUARANTINE, about).windows)


def _files(found: Sequence[Quarantined]) -> str:
    files = list(dict.fromkeys(one.file for one in found))
    more = [f"and {len(files) - NAMED} more files"] if len(files) > NAMED else []
    return ", ".join([*files[:NAMED], *more])
