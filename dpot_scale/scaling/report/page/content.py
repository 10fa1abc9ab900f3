"""What the page tells beside its charts: texts, tables and pictures."""

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dpot_scale.config.load import dump
from dpot_scale.config.places import SWEEP_CONFIG
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.blocks import Block, Table
from dpot_scale.scaling.report.forecasts import kept_frames
from dpot_scale.scaling.report.left_out import left_out
from dpot_scale.scaling.report.numbers import sweep_numbers
from dpot_scale.scaling.report.page.rollouts import Rollouts, rollouts_of
from dpot_scale.scaling.report.results import Finished, best_trial
from dpot_scale.scaling.report.table import overview_table
from dpot_scale.scaling.report.text import conclude
from dpot_scale.tracking.origin import origin

MOST_ROWS = 24  # of the first table
MOST_STILLS = 1_000_000  # bytes of the pictures of all sizes
VERSION = "version."  # begins the tags of versions
# A config names places of its machine; with these it runs anywhere.
HERE = "run.output=runs run.data.root=data run.tracking.mlflow_uri=sqlite:///mlflow.db"


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What the page tells."""

    name: str
    best: Finished | None
    planned: int  # trials
    numbers: Mapping[str, float]  # as metrics
    conclusion: Sequence[str]
    overview: Table  # errors beside persistence, with intervals
    all_lengths: Table | None  # the same of all trials, where the overview cannot hold them
    blocks: Sequence[Block]  # all tables
    left_out: Mapping[str, str]  # why trials are in no law, by id
    rollouts: Rollouts
    rollout_of: str  # the best model, or why there are no frames
    stills: Mapping[str, str]  # the forecasts of all sizes by dataset, as data addresses
    no_room: Sequence[str]  # datasets whose stills are too large for a page
    commands: Sequence[str]
    config: str  # the resolved sweep
    environment: Sequence[tuple[str, str]]


def content_of(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    finished: Sequence[Finished],
    arms: Sequence[Analysis],
    blocks: Sequence[Block],
    stills: Mapping[str, bytes],
) -> Content:
    """Return the content of the page of a sweep.

    Args:
        sweep: The sweep.
        trials: All of it.
        finished: Those with a result.
        arms: Their laws.
        blocks: The tables.
        stills: PNG pictures of the forecasts of all sizes, by dataset.

    Raises:
        RecordError: the frames of the best trial are damaged, or another version wrote them.
    """
    best = best_trial(finished)
    frames = kept_frames(best) if best is not None else {}
    shown = _that_fit(stills, MOST_STILLS)
    overview = overview_table(arms)
    is_long = len(overview.rows) > MOST_ROWS
    return Content(
        name=sweep.name,
        best=best,
        planned=len(trials),
        numbers=sweep_numbers(sweep, trials, finished, arms),
        conclusion=conclude(arms),
        overview=overview_table(arms, all_lengths=not is_long),
        all_lengths=overview if is_long else None,
        blocks=blocks,
        left_out=left_out(sweep, trials, finished),
        rollouts=rollouts_of(frames),
        rollout_of=_rollout_of(best, has_frames=bool(frames)),
        stills=shown,
        no_room=[name for name in stills if name not in shown],
        commands=[f"python -m dpot_scale.sweep run --config {SWEEP_CONFIG} {HERE}"],
        config=_config(sweep),
        environment=_environment(),
    )


def _rollout_of(best: Finished | None, *, has_frames: bool) -> str:
    if best is None:
        return "no trial has a finite error"
    if not has_frames:
        return f"{best.trial.id} has kept none; python -m dpot_scale.evaluate makes them"
    result = best.result
    return f"{best.trial.label} at {result.windows:,} windows"


def _that_fit(pictures: Mapping[str, bytes], most: int) -> dict[str, str]:
    """Return the first pictures that together take no more bytes, as data addresses."""
    shown = {}
    for name, picture in pictures.items():
        most -= len(picture) * 4 // 3
        if most >= 0:
            shown[name] = "data:image/png;base64," + base64.b64encode(picture).decode()
    return shown


def _config(sweep: SweepConfig) -> str:
    """Return the config that the sweep was run with."""
    file = sweep.directory / SWEEP_CONFIG
    return file.read_text(encoding="utf-8") if file.is_file() else dump(sweep)


def _environment() -> list[tuple[str, str]]:
    """Return what wrote this report."""
    found = origin()
    commit = found.get("mlflow.source.git.commit", "")
    changed = ", changed since" * ("git.changed" in found)
    facts = [("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))]
    facts += [("commit", commit + changed)] if commit else []
    facts += [("host", found["host"]), ("system", platform.platform())]
    versions = {key.removeprefix(VERSION): value for key, value in found.items() if VERSION in key}
    return [*facts, *versions.items()]
