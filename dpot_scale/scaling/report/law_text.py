"""The laws of a sweep in words and tables: what holds, with which interval, and what does not."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis
from dpot_scale.scaling.report.blocks import Block, Heading, Table
from dpot_scale.scaling.report.laws.choice import (
    FEWEST_SIZES,
    NOT_WITH_EVERY_STEP,
    Foretold,
    NoFit,
    choose,
)
from dpot_scale.scaling.report.laws.fit import LACK_OF_FIT, Fit, Interval
from dpot_scale.scaling.report.laws.optimum import (
    Parabola,
    compute_optimal,
    isoflop_parabolas,
    optimal_exponent,
)
from dpot_scale.scaling.report.results import (
    Finished,
    Measure,
    errors_of,
    flops_of,
    mean_points,
    points_of,
)

MEASURES: dict[Measure, str] = {
    "parameters": "all parameters",
    "block_parameters": "parameters in blocks",
    "flops_per_window": "training FLOPs of a window",
}


def law_sentences(found: Analysis) -> list[str]:
    """Say which law the rollout error follows in size, and in size and data."""
    sentences = [] if found.has_no_ladder else _size_sentences(found.size_law)
    if found.joint_law is not None:
        joint = found.joint_law
        told = f"{joint}" if isinstance(joint, NoFit) else f"rel_l2 = {joint}, D in windows"
        sentences.append(f"Over all sizes and lengths: {told}.")
    is_said = isinstance(found.size_law, NoFit) and NOT_WITH_EVERY_STEP in f"{found.size_law}"
    if not (found.has_no_ladder or is_said):
        sentences += _steps(found)
    return [*sentences, *_foretold_sentence(found), *_kept_sentence(found)]


def _size_sentences(law: Fit | NoFit) -> list[str]:
    if isinstance(law, NoFit):
        return [f"{_capital(law)}."]
    letter, name = ("N in parameters", "a") if law.form.size else ("D in windows", "b")
    exponent = law.parameters()[name]
    open_end = ", which includes 0: more sizes or seeds are needed" * (exponent.low <= 0)
    sentence = f"Power law: rel_l2 = {law}, {letter}; the exponent is {exponent}{open_end}."
    return [sentence, *_misfit(law)]


def _misfit(law: Fit) -> list[str]:
    """Say whether points leave a law by more than their seeds differ."""
    if not law.noise.lack_of_fit < LACK_OF_FIT:
        return []
    return [
        "The sizes leave this law by more than their seeds differ "
        f"(F-test, p = {law.noise.lack_of_fit:.2g})."
    ]


def _steps(found: Analysis) -> list[str]:
    errors = mean_points(found.group).log_errors
    if len(errors) < FEWEST_SIZES - 1:
        return []
    falls = all(after < before for before, after in pairwise(errors))
    return [
        "The error falls with every step in size."
        if falls
        else f"The error {NOT_WITH_EVERY_STEP} in size."
    ]


def _foretold_sentence(found: Analysis) -> list[str]:
    if isinstance(found.foretold, NoFit):
        return []
    one = found.foretold[-1]
    verdict = "inside" if one.holds else "outside"
    return [
        f"The smaller sizes foretell {one.expected.value:.3g} for {one.size:,.0f} parameters "
        f"(95 %: {one.expected.low:.3g} to {one.expected.high:.3g}); {one.measured:.3g} was "
        f"measured, {verdict} the interval."
    ]


def _kept_sentence(found: Analysis) -> list[str]:
    """Say how often what was foretold before a trial had finished came true."""
    told = [entry for entry in found.finished if entry.foretold is not None]
    if not told:
        return []
    held = [e for e in told if e.foretold is not None and e.foretold.holds(e.result.mean_rel_l2)]
    return [
        f"Of {len(told)} trials that were foretold before they had finished, {len(held)} lie "
        "inside their 95 % intervals."
    ]


def law_tables(waiting: Sequence[Trial], found: Analysis) -> list[Block]:
    """Return the parts of the report on laws.

    Args:
        waiting: Trials of the same arm that have not finished.
        found: Its laws.
    """
    return [
        Heading(text=f"Laws{found.of_arm}"),
        _explained(found.together),
        _series_table(found.together),
        "N counted in three ways:",
        _measure_table(found.together),
        Heading(text=f"The largest size, foretold by the smaller ones{found.of_arm}"),
        f"{_capital(found.foretold)}."
        if isinstance(found.foretold, NoFit)
        else Table(header=_FORETOLD, rows=[_foretold_cells(one) for one in found.foretold]),
        *_kept(found),
        *_waiting(waiting, found),
        *_optimum(found),
    ]


def _explained(group: Sequence[Finished]) -> str:
    lengths = {entry.result.windows for entry in group}
    which = (
        f"{len(group)} trials of {next(iter(lengths)):,} windows"
        if len(lengths) == 1
        else f"{len(group)} trials of {len(lengths)} lengths"
    )
    return (
        f"Through {which}: rel_l2 = E + A N^-a + B D^-b with the terms that the points support; N "
        "in parameters, D in windows. In brackets: 95 % intervals, by bootstrap. The scatter is "
        "that of one trial about the law. D' counts a window that is seen again as less than a new "
        "one; after R passes most of its worth is gone."
    )


def _series_table(group: Sequence[Finished]) -> Table:
    laws = {name: choose(points_of(group, errors)) for name, errors in errors_of(group).items()}
    return _law_table("error", laws)


def _measure_table(group: Sequence[Finished]) -> Table:
    laws = {words: choose(mean_points(group, measure)) for measure, words in MEASURES.items()}
    return _law_table("N", laws)


def _law_table(first: str, laws: Mapping[str, Fit | NoFit]) -> Table:
    """Return laws with the intervals of those parameters that any of them has."""
    found = {name: law.parameters() for name, law in laws.items() if isinstance(law, Fit)}
    columns = [
        one for one in ("E", "a", "b", "R") if any(one in values for values in found.values())
    ]
    rows = []
    for name, law in laws.items():
        if isinstance(law, NoFit):
            rows.append((name, f"none: {law}", *[""] * len(columns), ""))
            continue
        values = found[name]
        cells = [_cell(values[column]) if column in values else "" for column in columns]
        rows.append((name, str(law), *cells, f"{law.noise.deviation:.1%}"))
    return Table(header=(first, "law", *columns, "scatter"), rows=rows)


def _cell(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def _waiting(waiting: Sequence[Trial], found: Analysis) -> list[Block]:
    """Return what the law says of trials that have not finished."""
    rows = [
        (trial.label, f"{trial.run.windows:,}", f"{one.value:.4f}", _range(one))
        for trial, one in found.foretell(waiting)
    ]
    if not rows:
        return []
    header = ("size", "windows", "foretold rel_l2", "95 %")
    return ["Trials that have not finished:", Table(header=header, rows=rows)]


def _kept(found: Analysis) -> list[Block]:
    """Return what reports foretold of trials before these ran, beside what was measured."""
    rows = [
        (
            entry.trial.label,
            f"{entry.result.windows:,}",
            f"{one.time:%Y-%m-%d %H:%M}",
            f"{one.trials} by {one.law}",
            f"{one.value:.4f}",
            f"{one.low:.4f} to {one.high:.4f}",
            f"{entry.result.mean_rel_l2:.4f}",
            "yes" if one.holds(entry.result.mean_rel_l2) else "no",
        )
        for entry in found.finished
        if (one := entry.foretold) is not None
    ]
    if not rows:
        return []
    return [
        "Trials that were foretold before they had finished (UTC):",
        Table(header=_KEPT, rows=rows),
    ]


_KEPT = ("size", "windows", "on", "through trials", "foretold rel_l2", "95 %", "measured", "inside")
_FORETOLD = ("parameters", "windows", "foretold rel_l2", "95 %", "measured", "inside")


def _foretold_cells(one: Foretold) -> tuple[str, ...]:
    return (
        f"{one.size:,.0f}",
        f"{one.windows:,.0f}",
        f"{one.expected.value:.4f}",
        _range(one.expected),
        f"{one.measured:.4f}",
        "yes" if one.holds else "no",
    )


def _range(interval: Interval) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"


def _optimum(found: Analysis) -> list[Block]:
    """Return the best use of FLOPs, where the design has sizes and lengths."""
    if found.joint_law is None:
        return []
    title = Heading(text=f"The best size and length for a number of FLOPs{found.of_arm}")
    if found.trade is None:
        law = found.joint_law
        reason = f"{law}" if isinstance(law, NoFit) else f"the points support no more than {law}"
        return [title, f"{_capital(reason)}."]
    cost = found.window_cost
    rows = [
        (
            f"{one.flops:.2g}",
            _counted(one.size),
            _counted(one.windows),
            f"{one.error.value:.4f} ({_range(one.error)})",
        )
        for one in compute_optimal(found.trade, cost, found.budgets)
    ]
    return [
        title,
        "By the law of size and data, with fresh windows and "
        f"{cost.coefficient:.3g} N^{cost.exponent:.2f} FLOPs of training on one. Where an "
        "interval reaches beyond the sizes and lengths that were trained, so does the answer.",
        Table(header=("FLOPs", "N*", "D* [windows]", "rel_l2"), rows=rows),
        *_parabolas(found),
    ]


def _parabolas(found: Analysis) -> list[str]:
    """Return what parabolas say, in a design of equal FLOPs."""
    if not found.is_of_equal_flops:
        return []
    points = mean_points(found.finished)
    parabolas = isoflop_parabolas(points, flops_of(found.finished, points))
    if not parabolas:
        return []
    lines = [
        f"{one.flops:.2g} FLOPs: N* = {one.size:.3g}, rel_l2 = {one.error:.4f}"
        if isinstance(one, Parabola)
        else str(one)
        for one in parabolas
    ]
    exponent = optimal_exponent([one for one in parabolas if isinstance(one, Parabola)])
    told = exponent if isinstance(exponent, NoFit) else f"N* = k C^c with c = {exponent}"
    return [
        "As a check, the vertices of parabolas through the trials of equal FLOPs, which lean where "
        "the error falls at different rates to both sides (arXiv 2603.22339): "
        f"{'; '.join(lines)}. {_capital(told)}."
    ]


def _counted(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def _capital(text: object) -> str:
    sentence = str(text)
    return sentence[:1].upper() + sentence[1:]
