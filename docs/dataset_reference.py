"""Write docs/datasets.md, what becomes of The Well and PDEBench, from the catalogue.

`python docs/dataset_reference.py` writes the page anew; a test compares it with the catalogue.
"""

from collections.abc import Iterable
from pathlib import Path

from dpot_scale.data.published import PDEBENCH, THE_WELL, Published

PAGE = Path(__file__).with_name("datasets.md")
INTRODUCTION = """\
# The Well and PDEBench, file by file

<!-- `python docs/dataset_reference.py` writes this page from dpot_scale/data/published.py -->

`python -m dpot_scale.prepare import` takes any of these files or folders ([Data](data.md)). GiB are
those of one dataset in the store; with `--link` nothing is copied.

"""
WELL = """\
## The Well

Each folder is one dataset with the folder's name, and with its own splits `train`, `valid` and
`test`. Fields that do not change in time are inputs: the model sees them, and they are not scored.
Numbers of a simulation, such as its viscosity, are parameters of the trajectory. A grid whose axes
differ in their number of points is stored as it is, and stretched for a model.

"""
OTHER = """\

## PDEBench

A file from DaRUS has a number for a name: what it is, its content says. The last tenth of the
trajectories is the test split. "Pre-training" are those that the paper pre-trains on.

"""
COLUMNS = ("grid", "frames", "trajectories", "fields", "special", "GiB")


def page() -> str:
    """Return the page as Markdown: a table for The Well and one for PDEBench."""
    well = _table(
        ("folder, and name here", *COLUMNS), ([f"`{e.files}`", *_row(e)] for e in THE_WELL)
    )
    pdebench = _table(
        ("files", "become", *COLUMNS),
        ([f"`{e.files}`", f"`{e.becomes}`" if e.becomes else "", *_row(e)] for e in PDEBENCH),
    )
    return INTRODUCTION + WELL + well + OTHER + pdebench


def _table(columns: tuple[str, ...], rows: Iterable[list[str]]) -> str:
    rules = ["--:" if column in {"frames", "trajectories", "GiB"} else "---" for column in columns]
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(rules)}|"]
    lines += [
        f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |") for cells in rows
    ]
    return "\n".join(lines) + "\n"


def _row(entry: Published) -> list[str]:
    fields = ", ".join(entry.fields)
    if entry.inputs:
        fields += f"; inputs: {', '.join(entry.inputs)}"
    if entry.tensors:
        fields += f"; with `--tensors`: {', '.join(entry.tensors)}"
    size = f"{entry.gib:,.1f}" if entry.gib < 10 else f"{entry.gib:,.0f}"
    return [
        _grid(entry.grid),
        " or ".join(map(str, entry.frames)),
        f"{entry.trajectories:,}" if entry.trajectories else "",
        fields,
        entry.special,
        size if entry.gib else "",
    ]


def _grid(grid: tuple[int, ...]) -> str:
    if grid and len(set(grid)) == 1:
        return f"{grid[0]}{'²' if len(grid) == 2 else '³'}"
    return " x ".join(map(str, grid))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
