"""Finished trials of earlier designs of a sweep, which its report takes in."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic_core import from_json

from dpot_scale.config.identity import Contents, changed_content, identity
from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.config.places import RUN_CONFIG, SWEEP_CONFIG
from dpot_scale.config.record import Record, read_record
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError, RecordError
from dpot_scale.files import write_whole
from dpot_scale.runs.contents import read_contents, recorded
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.design import FactorValue
from dpot_scale.scaling.identified import trials_directory
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.rates import PROBE

POINT = "point.json"


class PointRecord(Record):
    """What the design said of a trial when it was begun."""

    label: str
    factors: dict[str, FactorValue]


def record_point(trial: Trial) -> None:
    """Write what the design says of a trial into its folder, for later designs.

    Raises:
        DiskError: it cannot be written.
    """
    point = PointRecord(label=trial.label, factors=dict(trial.factors))
    write_whole(trial.run.directory / POINT, point.model_dump_json())


def earlier_trials(sweep: SweepConfig, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the finished trials in the folder of a sweep that its design no longer has.

    Args:
        sweep: The sweep, with absolute paths.
        trials: Its plan.

    Raises:
        RecordError: another version wrote a result.
    """
    planned = {trial.id for trial in trials}
    folders = sorted(path.parent for path in trials_directory(sweep).glob(f"*/{RUN_CONFIG}"))
    found = [_read(folder) for folder in folders if folder.name not in planned]
    return tuple(trial for trial in found if trial is not None)


def _read(folder: Path) -> Trial | None:
    """Return the finished trial in a folder; None if it is unfinished, or its config is lost."""
    result = read_result(folder)
    if result is None:
        return None
    try:
        run = load_run(str(folder / RUN_CONFIG))
    except ConfigError:
        return None
    point = _point(folder, result.windows)
    if PROBE in point.factors:
        return None  # no point of a law
    return Trial(
        id=folder.name,
        label=point.label,
        factors=point.factors,
        after=None,
        run=run.model_copy(update={"output": folder.parent, "name": folder.name}),
        contents=Contents(datasets=result.datasets),
        parameters=result.parameters,
        block_parameters=result.block_parameters,
        train_flops=result.train_flops,
        worker_gib=0.0,
        together_gib=0.0,
        seconds=0.0,
    )


def _point(folder: Path, windows: int) -> PointRecord:
    """Return what the design said; of trials before designs, the label in the name."""
    with suppress(OSError, ValueError):
        raw = (folder / POINT).read_bytes()
        return read_record(PointRecord, from_json(raw), folder / POINT, RecordError)
    label = folder.name.rpartition("_w")[0]
    return PointRecord(label=label, factors={"size": label, "windows": windows})


def require_same_sweep(sweep: SweepConfig, trials: Sequence[Trial]) -> None:
    """Make sure that the trials in the folder of a sweep belong to it; its design may have changed.

    Raises:
        ConfigError: trials of another run or of other rules were started there, or the sweep read
            other data or weights when it was started.
    """
    contents = read_contents(sweep.run, sweep.directory)
    difference = changed_content(recorded(sweep.directory), contents.record())
    if difference is not None:
        raise ConfigError(f"{sweep.directory} holds a sweep that was begun with {difference}")
    started = {entry.trial for entry in Journal(sweep.directory).entries()}
    others = sorted(
        name
        for name in started - {trial.id for trial in trials}
        if PROBE not in _point(trials_directory(sweep) / name, windows=0).factors
    )
    if others and not _has_same_base(sweep, contents):
        raise ConfigError(
            f"{sweep.directory} holds a sweep of another config (see {SWEEP_CONFIG} there), which "
            f"started {', '.join(others)}; restore that config, or choose another `name` or "
            "`run.output`"
        )


def _has_same_base(sweep: SweepConfig, contents: Contents) -> bool:
    """Return whether the sweep that was begun in a folder differs from this one in design alone.

    Then its trials are points of the same experiment.
    """
    path = sweep.directory / SWEEP_CONFIG
    try:
        before = load_sweep(str(path))
    except ConfigError:
        return False
    if before.rules != sweep.rules or recorded(sweep.directory) != contents.record():
        return False
    run = before.run.model_copy(update={"windows": sweep.run.windows})
    return identity(run, contents) == identity(sweep.run, contents)
