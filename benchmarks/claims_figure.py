"""Draw what benchmarks/claims.py measured: a point for each seed, a bar for their mean.

    python benchmarks/claims_figure.py PRETRAININGS.jsonl TASKS.jsonl PICTURE.png

The first file holds the trainings on five equations, the second those on held-out tasks; both may
be the same.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from claims import PRETRAININGS, RATES, TASKS, Training, at_most_1, read
from matplotlib.axes import Axes

TITLES = {
    "cylinder": "flow around cylinders",
    "darcy": "steady Darcy flow",
    "gas3d": "a gas in 3D",
}
COLORS = {"scratch": "tab:gray", "pre-trained": "tab:blue"}


def main(pretrainings: Path, tasks: Path, picture: Path) -> None:
    """Write the picture."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), width_ratios=[1.6, 1, 1, 1])
    found = {Training(*line["training"]): line["scores"] for line in read(pretrainings)}
    kinds = {
        kind: [mean_error(scores) for training, scores in found.items() if training.kind == kind]
        for kind in PRETRAININGS
    }
    axes[0].set_title("trained on five equations", fontsize=10)
    draw(axes[0], kinds, ["tab:blue" if "improved" in kind else "tab:gray" for kind in kinds])
    found = {Training(*line["training"]): line["scores"] for line in read(tasks)}
    for axis, task in zip(axes[1:], TASKS, strict=True):
        starts = {start: best_of_rates(found, task, start) for start in COLORS}
        axis.set_title(TITLES[task], fontsize=10)
        draw(axis, starts, list(COLORS.values()))
    axes[0].set_ylabel("rollout rel_l2")
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


def best_of_rates(
    found: dict[Training, dict[str, dict[str, float]]], task: str, start: str
) -> list[float]:
    """Return a task's errors by seed at the learning rate with the lower mean."""
    by_rate = [
        [mean_error(scores) for training, scores in found.items()
         if training[:3] == (task, start, rate)]
        for rate in RATES
    ]  # fmt: skip
    return min(by_rate, key=fmean)


def mean_error(scores: dict[str, dict[str, float]]) -> float:
    """Return the mean rollout error over datasets, each at most 1."""
    return fmean(at_most_1(score["rel_l2"]) for score in scores.values())


def draw(axis: Axes, groups: dict[str, list[float]], colors: Sequence[str]) -> None:
    """Draw a bar and its points for each group."""
    for place, (errors, color) in enumerate(zip(groups.values(), colors, strict=True)):
        axis.bar(place, fmean(errors), width=0.6, color=color, alpha=0.35)
        axis.plot([place] * len(errors), errors, "o", color=color, ms=4)
    labels = [name.replace(", ", ",\n") for name in groups]
    axis.set_xticks(range(len(groups)), labels, fontsize=8)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
