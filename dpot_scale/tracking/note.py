"""What the page of a finished training in MLflow shows first: its held-out errors.

MLflow lists metrics in the order of their arrival, so what is known last is below all the others.
"""

from collections.abc import Mapping
from pathlib import Path

from dpot_scale.tracking import names
from dpot_scale.tracking.names import MEAN, ONE_STEP_REL_L2, OVER_PERSISTENCE, REL_L2, final_key
from dpot_scale.tracking.spool import read_metrics

SCORES = (REL_L2, OVER_PERSISTENCE, ONE_STEP_REL_L2)
HEADER = "| held-out error | rel_l2 | over persistence | one step |\n|---|--:|--:|--:|"


def note_of(spool: Path) -> str:
    """Return the errors of a finished training as Markdown, by its spool; empty without any."""
    newest = {key: steps[max(steps)] for key, steps in read_metrics(spool).items()}
    if final_key(REL_L2) not in newest:
        return ""
    start, end = final_key(REL_L2, "|").split("|")
    datasets = [
        key.removeprefix(start).removesuffix(end)
        for key in newest
        if key.startswith(start) and key.endswith(end) and key != final_key(REL_L2)
    ]
    rows = [_row(newest, MEAN, None), *(_row(newest, name, name) for name in datasets)]
    return "\n".join([HEADER, *rows, "", _size(newest)])


def _row(newest: Mapping[str, float], name: str, dataset: str | None) -> str:
    found = [newest.get(final_key(score, dataset)) for score in SCORES]
    cells = ["" if value is None else f"{value:.4g}" for value in found]
    return f"| {' | '.join([name, *cells])} |"


def _size(newest: Mapping[str, float]) -> str:
    """Return in a sentence what was trained, as far as it is known."""
    parts = [
        f"{newest[key]:{form}} {unit}"
        for key, form, unit in (
            (names.PARAMETERS, ",.0f", "parameters"),
            (names.WINDOWS, ",.0f", "windows"),
            (names.TRAIN_FLOPS, ".3g", "FLOPs"),
            (names.SECONDS, ",.0f", "seconds"),
        )
        if key in newest
    ]
    return ", ".join(parts)
