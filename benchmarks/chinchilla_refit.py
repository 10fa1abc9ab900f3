"""Does our fit give the published refit of Chinchilla's law, on the data that it was made from?

The data are those that Besiroglu et al. 2024 (arXiv 2404.10102) read off a figure of Hoffmann et
al. 2022: `data/svg_extracted_data.csv` of github.com/epoch-research/analyzing-chinchilla.

    python benchmarks/chinchilla_refit.py svg_extracted_data.csv
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from dpot_scale.scaling.report.laws.fit import fit
from dpot_scale.scaling.report.laws.fitting import fit_form, refine
from dpot_scale.scaling.report.laws.forms import Form
from dpot_scale.scaling.report.laws.points import Points

# Estimate and standard error.
PUBLISHED = {
    "E": (1.8172, 0.026),
    "A": (482.01, 124.5),
    "a": (0.3478, 0.015),
    "B": (2085.43, 1293.3),
    "b": (0.3658, 0.021),
}
LEFT_OUT = 5  # models with the fewest tokens per parameter, as in the paper
HUBER = 1e-3  # as in both papers


def main() -> None:
    """Print the published and our parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="svg_extracted_data.csv")
    with parser.parse_args().data.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sizes = np.array([float(row["Model Size"]) for row in rows])
    tokens = np.array([float(row["Training FLOP"]) for row in rows]) / (6 * sizes)
    losses = np.array([float(row["loss"]) for row in rows])
    kept = np.argsort(tokens / sizes)[LEFT_OUT:]
    points = Points.of(sizes[kept], losses[kept], windows=tokens[kept])
    form = Form.of(points, floor=True, data=True)

    theta = fit_form(form, points, HUBER)
    ours = form.named(theta[None])
    robust = fit(form, points).parameters()
    print(f"{len(points)} models\n\n| | published | ours, same loss | ours, by default (95 %) |")
    print("|---|--:|--:|--:|")
    for name, (value, error) in PUBLISHED.items():
        print(f"| {name} | {value} +- {error} | {ours[name][0]:.5g} | {robust[name]} |")
    _, loss = refine(form, theta[None], points, points.log_errors, HUBER)
    print(f"\nloss {loss[0]:.6e}; that of the published parameters {_published_loss(points):.6e}")


def _published_loss(points: Points) -> float:
    law = {name: value for name, (value, _) in PUBLISHED.items()}
    predicted = law["E"] + law["A"] * points.sizes ** -law["a"]
    residual = np.abs(
        points.log_errors - np.log(predicted + law["B"] * points.windows ** -law["b"])
    )
    quadratic = np.minimum(residual, HUBER)
    loss = quadratic**2 / 2 + quadratic * (residual - quadratic)
    return float((points.seeds * loss).sum())


if __name__ == "__main__":
    main()
