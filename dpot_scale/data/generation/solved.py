"""Keeps solved trajectories that are in no shard yet, so that a kill loses only seconds of work.

A shard is written when it is large enough, which may take hours of solving. Until then, what was
solved lies in a hidden folder beside the dataset, named after its recipe.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.generation.workers import Solved
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.digest import recipe_digest
from dpot_scale.data.store.faults import UNREADABLE, require_machine, unreadable
from dpot_scale.files import replacing, write_whole

SECONDS_BETWEEN_SAVES = 10.0
SECONDS = "seconds.json"
NAME = re.compile(r"(\d+)-(\d+)\.npy")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    path: Path
    seeds: range


class SolvedParts:
    """The solved trajectories of a dataset, by their seeds, and what each of them cost.

    Args:
        root: The folder of all datasets.
        info: The description of the dataset.
    """

    def __init__(self, root: Path, info: DatasetInfo) -> None:
        self._shape = (len(info.channels), *info.grid)
        self.folder = root / f".{info.name}.{recipe_digest(info.source)}.solved"
        for folder in root.glob(f".{info.name}.*.solved"):
            if folder != self.folder:  # of another recipe
                shutil.rmtree(folder, ignore_errors=True)
        for file in self._files():
            self._remove_if_damaged(file)
        self.seconds: dict[int, float] = _read_seconds(self.folder / SECONDS)
        self._unsaved: list[tuple[range, Solved]] = []
        self._saved = time.monotonic()

    def number_of(self, seeds: range) -> int:
        """Return how many of the seeds were kept."""
        return sum(len(some) for some, kept in self._cut(seeds) if kept is not None)

    def cut(self, seeds: range) -> Iterator[tuple[range, NDArray[np.float32] | None]]:
        """Yield consecutive seeds with what was kept of them, None for those yet to be solved."""
        for some, kept in self._cut(seeds):
            yield some, None if kept is None else self._read(kept, some)

    def add(self, seeds: range, solved: Solved, safe: range) -> None:
        """Take solved trajectories, and keep those that are in no shard yet every few seconds.

        Args:
            seeds: The seeds of the trajectories.
            solved: The trajectories.
            safe: The seeds of the same split that are in shards.
        """
        self.seconds |= zip(seeds, solved.seconds, strict=True)
        self._unsaved.append((seeds, solved))
        self._unsaved = [(some, part) for some, part in self._unsaved if some[-1] not in safe]
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            self._save(safe)
            self._saved = time.monotonic()

    def remove(self) -> None:
        """Remove all files, once the dataset is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _cut(self, seeds: range) -> Iterator[tuple[range, _File | None]]:
        files = self._files()
        while seeds:
            kept = next((file for file in files if seeds.start in file.seeds), None)
            later = [file.seeds.start for file in files if file.seeds.start in seeds]
            stop = kept.seeds.stop if kept is not None else min(later, default=seeds.stop)
            some = range(seeds.start, min(stop, seeds.stop))
            yield some, kept
            seeds = range(some.stop, seeds.stop)

    def _save(self, safe: range) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / SECONDS, json.dumps(list(self.seconds.items())))
        for seeds, solved in self._unsaved:
            path = self.folder / f"{seeds.start}-{seeds.stop}.npy"
            with replacing(path) as partial, partial.open("wb") as file:
                np.save(file, solved.fields)
        self._unsaved.clear()
        for kept in self._files():
            if kept.seeds[-1] in safe:
                kept.path.unlink()

    def _files(self) -> list[_File]:
        return [
            _File(path, range(int(name[1]), int(name[2])))
            for path in sorted(self.folder.glob("*-*.npy"))
            if (name := NAME.fullmatch(path.name))
        ]

    def _remove_if_damaged(self, file: _File) -> None:
        """Remove a file that is not what was written: its trajectories are solved again.

        Raises:
            MachineError: it cannot be read now, and may be intact.
        """
        try:
            fields_NTCs = np.load(file.path, mmap_mode="r", allow_pickle=False)
            if len(fields_NTCs) != len(file.seeds) or fields_NTCs.shape[2:] != self._shape:
                raise ValueError(f"it holds {fields_NTCs.shape}")
        except (*UNREADABLE, EOFError) as error:
            require_machine(file.path, error)
            log.warning("%s is damaged (%s): what it held is solved again", file.path, error)
            file.path.unlink()

    def _read(self, kept: _File, seeds: range) -> NDArray[np.float32]:
        """Return some of the trajectories of a file, which is not mapped: it may be cut.

        Raises:
            DataError, MachineError: it cannot be read.
        """
        first = seeds.start - kept.seeds.start
        try:
            fields_NTCs: NDArray[np.float32] = np.load(kept.path, allow_pickle=False)
        except (*UNREADABLE, EOFError) as error:
            advice = "remove it, and what it held is solved again"
            raise unreadable(kept.path, error, "", advice) from error
        return fields_NTCs[first : first + len(seeds)]


def _read_seconds(path: Path) -> dict[int, float]:
    try:
        return {int(seed): float(seconds) for seed, seconds in json.loads(path.read_text())}
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return {}
