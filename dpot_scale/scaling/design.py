"""The points of a sweep: what each entry of its design makes of the run that all of them share.

Pure: no torch, DeepSpeed, Ray or MLflow here.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from dpot_scale.config.design import BASE, Design
from dpot_scale.config.load import inline, lay_values_over, validate
from dpot_scale.config.model import laid_over
from dpot_scale.config.optim import Length
from dpot_scale.config.places import with_absolute_source
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sentences import nearest
from dpot_scale.config.sweep import LENGTHS, SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.scaling.rules import (
    BATCH,
    follow_rules,
    power_rules,
    refuse_values_of_rules,
    values_beneath,
    whole_batches,
)
from dpot_scale.scaling.sizes import geometric, label_of_size, matching_model, of_parameters

RUN = "run."
LONG = 10**6  # batches of a run whose length is not chosen yet
FactorValue = str | int | float
Raw = dict[str, Any]  # a YAML mapping before validation


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One trial as the design says it, before it is priced."""

    run: RunConfig
    label: str  # all but its length, for tables and folders
    factors: Mapping[str, FactorValue]  # what sets it apart, by factor
    trunk_windows: int | None = None  # of a branch: the length of its trunk
    branches: tuple[int, ...] = ()  # of a trunk: the steps at which its branches begin


@dataclass(frozen=True, slots=True)
class _Draft:
    """A point under way: the raw run, and what was said of it so far."""

    run: Raw
    labels: tuple[str, ...] = ()
    factors: Mapping[str, FactorValue] = field(default_factory=dict)
    trunk_windows: int | None = None
    branches: tuple[int, ...] = ()

    def varied(
        self,
        factor: str,
        value: FactorValue,
        changes: Mapping[str, Any],
        label: str = "",
    ) -> "_Draft":
        """Return the draft with a factor more.

        Args:
            factor: Its name.
            value: Its value, for tables.
            changes: Values by dotted keys of the run.
            label: The value in the label of the point; none if it is empty.
        """
        return replace(
            self.with_values(changes),
            labels=(*self.labels, *([label] if label else [])),
            factors={**self.factors, factor: value},
        )

    def with_values(self, values: Mapping[str, Any]) -> "_Draft":
        """Return the draft with values laid over its run, by dotted keys."""
        run = _copied(self.run)
        lay_values_over(run, _copied(values))
        return replace(self, run=run)

    @property
    def label(self) -> str:
        """Return the labels as one that can name a folder."""
        return "-".join(self.labels) or str(self.run["model"].get("family", "run"))


def points_of(sweep: SweepConfig) -> list[Point]:
    """Return the points of a sweep: every combination of what the entries of its design say.

    Raises:
        ConfigError: a point is not possible; the sentence names it.
    """
    refuse_values_of_rules(sweep)
    drafts = [_Draft(run=_base(sweep))]
    entries = _in_order(sweep.factors)
    number = sum(entry.kind not in LENGTHS for entry in entries)
    for entry in entries[:number]:
        drafts = [found for draft in drafts for found in _named(sweep, draft, entry)]
    drafts = [_ruled(sweep, draft) for draft in drafts]
    for entry in entries[number:]:
        drafts = [found for draft in drafts for found in _named(sweep, draft, entry)]
    return [_point(sweep, draft) for draft in drafts]


def _in_order(design: Sequence[Design]) -> list[Design]:
    """Return entries so that each comes after those it depends on.

    A matched family depends on the model, and so on all that may change it.
    """
    late = ("families", *LENGTHS)
    return sorted(design, key=lambda e: late.index(e.kind) + 1 if e.kind in late else 0)


def _base(sweep: SweepConfig) -> Raw:
    base = sweep.run.model_dump()
    lay_values_over(base, values_beneath(sweep.rules))
    return base


def _named(sweep: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    """Yield what an entry makes of a draft; a mistake is said to be that of the point."""
    try:
        yield from _MAKERS[entry.kind](sweep, draft, entry)
    except ConfigError as error:
        raise ConfigError(f"trial {draft.label}: {error}") from error


def _ruled(sweep: SweepConfig, draft: _Draft) -> _Draft:
    """Return the draft with the values that follow from the size of its model."""
    if not power_rules(sweep.rules, "size"):
        return draft
    try:
        values = follow_rules(sweep, _of_any_length(sweep, draft), "size")
    except ConfigError as error:
        raise ConfigError(f"trial {draft.label}: {error}") from error
    if "windows" in values:  # no length was chosen yet
        values["windows"] = whole_batches(draft.run["windows"], values[BATCH])
    return draft.with_values(values)


def _point(sweep: SweepConfig, draft: _Draft) -> Point:
    try:
        run = _validated(sweep, draft.run)
        if values := follow_rules(sweep, run, "length"):
            run = _validated(sweep, draft.with_values(values).run)
    except ConfigError as error:
        raise ConfigError(f"trial {draft.label}: {error}") from error
    return Point(
        run=with_absolute_source(run),  # which an entry of the design may have set
        label=draft.label,
        factors=draft.factors,
        trunk_windows=draft.trunk_windows,
        branches=draft.branches,
    )


def _validated(sweep: SweepConfig, raw: Raw) -> RunConfig:
    inline(raw)
    return validate(RunConfig, raw, f"sweep {sweep.name}")


def _of_any_length(sweep: SweepConfig, draft: _Draft) -> RunConfig:
    """Return the run of a draft before its length is chosen: with one that suits any batch."""
    batch = draft.run["batch"].get("global_batch")
    windows = LONG * batch if isinstance(batch, int) else draft.run["windows"]
    return _validated(sweep, draft.with_values({"windows": windows}).run)


def _ladder(_: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.ladder is not None
    if isinstance(entry.ladder, dict):
        for label, model in entry.ladder.items():
            yield draft.varied("size", label, {"model": model.model_dump()}, label)
        return
    below = laid_over(draft.run["model"], {"family": entry.ladder.family})
    for parameters in geometric(entry.ladder.parameters):
        label = label_of_size(parameters)
        model = of_parameters(below, parameters)
        yield draft.varied("size", label, {"model": model.model_dump()}, label)


def _grid(_: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.grid is not None
    for values in product(*entry.grid.values()):
        found = draft
        for key, value in zip(entry.grid, values, strict=True):
            name = _field(key)
            shown = _as_value(value)
            found = found.varied(name, shown, {name: value}, _as_label(name, shown))
        yield found


def _ablation(_: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.ablation is not None
    yield draft.varied("ablation", BASE, {}, BASE)
    for label, changes in entry.ablation.items():
        values = {_field(key): value for key, value in changes.items()}
        yield draft.varied("ablation", label, values, label)


def _seeds(_: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.seeds is not None
    for seed in entry.seeds:
        yield draft.varied("seed", seed, {"seed": seed}, f"s{seed}")


def _data(_: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.data is not None
    for number in entry.data.trajectories:
        changes = {"data.trajectories": number}
        yield draft.varied("trajectories", number, changes, f"t{number}")


def _start(_: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.start is not None
    for label, source in entry.start.items():
        yield draft.varied("start", label, {"start.source": source}, label)


def _families(sweep: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.families is not None
    reference = _of_any_length(sweep, draft).model
    for family in entry.families.of:
        below = laid_over(draft.run["model"], {"family": family})
        model = matching_model(reference, below, entry.families.match)
        yield draft.varied("family", family, {"model": model.model_dump()}, family)


def _windows(sweep: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.windows is not None
    for wanted in entry.windows:
        windows = wanted
        if sweep.rules.batch is not None:
            windows = whole_batches(wanted, draft.run["batch"]["global_batch"])
        yield draft.varied("windows", windows, {"windows": windows})


def _isoflop(sweep: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.isoflop is not None
    run = _of_any_length(sweep, draft)
    of_window = family_of(run.model).flops(run.model, KEEP_ALL).training
    of_batch = of_window * run.batch.global_batch
    for budget in entry.isoflop.budgets:
        if budget < of_batch:
            raise ConfigError(
                f"isoflop: {budget:g} FLOPs are less than one batch of {run.batch.global_batch} "
                f"windows, {of_batch:.2g} FLOPs; give a larger budget"
            )
        windows = round(budget / of_batch) * run.batch.global_batch
        yield draft.varied("flops", budget, {"windows": windows})


def _cooldown(sweep: SweepConfig, draft: _Draft, entry: Design) -> Iterator[_Draft]:
    assert entry.cooldown is not None
    trunk, branches = entry.cooldown.trunk, sorted({*entry.cooldown.at} - {entry.cooldown.trunk})
    if power_rules(sweep.rules, "length"):
        raise ConfigError(
            "cooldown: a rule that follows `windows` gives each length another training, which "
            "then shares nothing with the trunk; let it follow width or parameters"
        )
    run, shortest = _of_any_length(sweep, draft), min([*branches, trunk])
    batch = run.batch.global_batch
    # As a share, it would be another warmup for each length.
    warmup = Length(windows=round(batch * run.optim.warmup.in_steps(shortest // batch, batch)))
    changes = {"optim.schedule": "warmup_stable_decay", "optim.warmup": warmup.model_dump()}
    starts = []
    for windows in branches:
        found = draft.varied("windows", windows, {"windows": windows, **changes})
        run = _validated(sweep, found.with_values({}).run)
        start = constant_steps(run)
        if start < 1:
            raise ConfigError(
                f"cooldown: at {windows} windows, warmup and decay leave no step between them; "
                "shorten run.optim.warmup or run.optim.decay"
            )
        starts.append(start)
        yield replace(found, trunk_windows=trunk)
    found = draft.varied("windows", trunk, {"windows": trunk, **changes})
    kept = sorted({*found.run["checkpoint"]["keep_at"], *starts})
    lay_values_over(found.run, {"checkpoint.keep_at": kept})
    yield replace(found, branches=tuple(starts))


def constant_steps(run: RunConfig) -> int:
    """Return the last step of a warmup-stable-decay run that does not depend on its length.

    Up to it a longer run with the same warmup makes the same updates; 0 if there is none.
    """
    steps, batch = run.steps, run.batch.global_batch
    last = math.floor(steps - run.optim.decay.in_steps(steps, batch))
    return last if last >= run.optim.warmup.in_steps(steps, batch) else 0


def _copied(raw: Mapping[str, Any]) -> Raw:
    """Return a copy of nested mappings; what they hold is never changed."""
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in raw.items()}


def _field(key: str) -> str:
    """Return a dotted field of a sweep's run without the `run.` before it."""
    name = key.removeprefix(RUN)
    if name == key:
        known = [f"{RUN}{field}" for field in RunConfig.model_fields]
        raise ConfigError(
            f"design: {key!r} is no field of the run{nearest(RUN + key, known)}; write it as "
            "run.SECTION.FIELD"
        )
    if name in ("name", "output"):
        raise ConfigError(f"design: {key} cannot differ: each trial has a folder of its own")
    return name


def _as_value(value: object) -> FactorValue:
    """Return a value for tables: a number where it is one; YAML reads 1e-3 as text."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value if isinstance(value, int | float | str) else str(value)


def _as_label(name: str, value: FactorValue) -> str:
    """Return the value of a field as a part of the name of a folder."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    word = "" if isinstance(value, str) else name.rpartition(".")[2]
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in f"{word}{text}").lstrip(".-")


_MAKERS: Mapping[str, Callable[[SweepConfig, _Draft, Design], Iterator[_Draft]]] = {
    "ladder": _ladder,
    "grid": _grid,
    "windows": _windows,
    "isoflop": _isoflop,
    "cooldown": _cooldown,
    "data": _data,
    "seeds": _seeds,
    "families": _families,
    "ablation": _ablation,
    "start": _start,
}
assert _MAKERS.keys() == Design.model_fields.keys()
