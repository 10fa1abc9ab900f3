"""Which run each point of a sweep is, and the folder that it has or had in an earlier design."""

from collections import defaultdict
from pathlib import Path

from dpot_scale.config.data import DataConfig
from dpot_scale.config.identity import Contents, changed_content, identity
from dpot_scale.config.load import load_run
from dpot_scale.config.places import RESULT_FILE, RUN_CONFIG, TRIALS
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError, RecordError
from dpot_scale.runs.contents import read_contents, recorded
from dpot_scale.runs.resolved import Run
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.design import Point

DIGITS = 6  # of an identity, in the name of a folder
LONGEST_LABEL = 150  # file systems take names of 255 bytes


class Identified:
    """The runs of the points of a sweep.

    Args:
        sweep: The sweep, with absolute paths.

    Raises:
        DataError: the index of a dataset cannot be read.
    """

    def __init__(self, sweep: SweepConfig) -> None:
        self._sweep = sweep
        self._folder = trials_directory(sweep)
        self._contents: list[tuple[DataConfig, Path | None, Contents]] = []
        self._labels: dict[str, str] = {}  # of the points so far, by identity
        self._names: dict[str, str] = {}  # of their folders, by identity
        self._begun: dict[str, list[str]] = defaultdict(list)  # folders by the end of their names
        for config in sorted(self._folder.glob(f"*/{RUN_CONFIG}")):
            self._begun[config.parent.name[-DIGITS:]].append(config.parent.name)

    def run(self, point: Point, *, is_settled: bool = True) -> Run:
        """Return the run of a point, named after what it is and placed inside the sweep.

        Args:
            point: The point.
            is_settled: Whether its config is. Until then its name ends in question marks.

        Raises:
            ConfigError: an earlier point is the same run, or no dataset has so many trajectories.
        """
        config = point.run.model_copy(update={"output": self._folder})
        contents = self._read(config)
        _require_trajectories(point, contents)
        known = identity(config, contents)
        label = f"{point.label} of {config.windows:,} windows"
        if known in self._labels:
            raise ConfigError(
                f"design: the trials {self._labels[known]} and {label} are the same run; remove one"
            )
        self._labels[known] = label
        short = point.label[:LONGEST_LABEL]
        prefix = f"{short}_w{config.windows}_"
        name = self._find(contents, known, prefix) if is_settled else self._unsettled(prefix)
        self._names[known] = name
        return Run(
            config=config.model_copy(update={"name": name}), contents=contents, identity=known
        )

    def name_of(self, config: RunConfig, like: Run) -> str:
        """Return the folder of the point with a config, which reads what another run reads."""
        return self._names[identity(config, like.contents)]

    def _read(self, config: RunConfig) -> Contents:
        for data, source, contents in self._contents:
            if (data, source) == (config.data, config.start.source):
                return contents
        contents = read_contents(config, self._sweep.directory)
        self._contents.append((config.data, config.start.source, contents))
        return contents

    def _unsettled(self, prefix: str) -> str:
        """Return a name that no folder and no other point has."""
        name = f"{prefix}{'?' * DIGITS}"
        while name in self._names.values():
            name += "?"
        return name

    def _find(self, contents: Contents, known: str, prefix: str) -> str:
        """Return the name of the folder of a run: that of an earlier design, or a new one."""
        name = f"{prefix}{known[:DIGITS]}"
        there = self._begun.get(known[:DIGITS], [])
        if name in there:
            return name
        for other in there:
            if self._is_of(other, contents, known):
                return other
        # Other versions of this package found other identities.
        for other in (n for names in self._begun.values() for n in names if n.startswith(prefix)):
            if self._is_of(other, contents, known):
                return other
        return name

    def _is_of(self, name: str, contents: Contents, known: str) -> bool:
        """Return whether a folder holds the run of an identity."""
        folder = self._folder / name
        if changed_content(recorded(folder), contents.record()):
            return False
        try:
            if (folder / RESULT_FILE).exists():
                result = read_result(folder)
                if result is not None and result.identity == known:
                    return True
            return identity(load_run(str(folder / RUN_CONFIG)), contents) == known
        except (ConfigError, RecordError):  # of a trial that no longer says what it is
            return False


def _require_trajectories(point: Point, contents: Contents) -> None:
    """Refuse an amount of data beyond all that there is: it would be the same as all of it."""
    wanted, names = point.factors.get("trajectories"), point.run.data.weights
    if isinstance(wanted, int) and names.keys() <= contents.stored.keys():
        most = max(contents.stored[name].trajectories for name in names)
        if wanted > most:
            raise ConfigError(
                f"trial {point.label}: no dataset has {wanted} training trajectories; the largest "
                f"has {most}"
            )


def trials_directory(sweep: SweepConfig) -> Path:
    """Return the folder of the runs of a sweep."""
    return sweep.directory / TRIALS
