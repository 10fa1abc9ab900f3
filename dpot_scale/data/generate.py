"""Generate the datasets of a suite: solved once, kept in the store, reproducible from a seed."""

import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpot_scale.config.load import nearest
from dpot_scale.config.schema import GeneratedDataset, SuiteConfig, config_hash
from dpot_scale.data.catalog import DatasetInfo
from dpot_scale.data.solvers.navier_stokes import NavierStokes
from dpot_scale.data.solvers.reaction_diffusion import ReactionDiffusion
from dpot_scale.data.solvers.shallow_water import ShallowWater
from dpot_scale.data.solvers.solver import Solver
from dpot_scale.data.store import INDEX, Split, StoreWriter, locked, open_store
from dpot_scale.errors import ConfigError, DataError

SOLVERS: dict[str, type[Any]] = {
    solver.equation: solver for solver in (NavierStokes, ReactionDiffusion, ShallowWater)
}
# Trajectories solved at once: enough to fill the cores, little enough to stay in cache.
SOLVED_TOGETHER = 16
# Seeds of one suite seed; the upper half is for test trajectories.
SEEDS_PER_SUITE = 1_000_000


def generate_suite(suite: SuiteConfig, root: Path, *, progress: Callable[[str], None]) -> None:
    """Generate those datasets of a suite that `root` lacks.

    Safe to call from several processes: one generates, the others wait and find the result.

    Args:
        suite: The recipe of every dataset.
        root: The folder of all datasets.
        progress: Takes one line of text for the user at a time.

    Raises:
        ConfigError: an equation has no such parameter.
        DataError: a dataset of the same name was made by another recipe.
    """
    solvers = {name: _solver(name, recipe) for name, recipe in suite.datasets.items()}
    if not _missing(suite, root):  # nothing to write: the folder may be read-only
        return
    with locked(root):
        for name in _missing(suite, root):  # again: another process may have been faster
            started = time.perf_counter()
            recipe = suite.datasets[name]
            _generate(root, name, recipe, solvers[name], suite.seed)
            progress(
                f"generated {name}: {recipe.train} train and {recipe.test} test trajectories of "
                f"{recipe.frames} frames at {recipe.grid} x {recipe.grid} in "
                f"{time.perf_counter() - started:.1f} s"
            )


def _missing(suite: SuiteConfig, root: Path) -> list[str]:
    """Return the datasets that `root` lacks; those it has must be of the same recipe."""
    missing = []
    for name, recipe in suite.datasets.items():
        if (root / name / INDEX).exists():
            _check_recipe(root, name, _source(recipe, suite.seed))
        else:
            missing.append(name)
    return missing


def _source(recipe: GeneratedDataset, seed: int) -> str:
    return f"{recipe.equation}, suite seed {seed}, recipe {config_hash(recipe)}"


def _generate(root: Path, name: str, recipe: GeneratedDataset, solver: Solver, seed: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    info = DatasetInfo(
        name=name,
        equation=recipe.equation,
        channels=solver.channels,
        scored=(True,) * len(solver.channels),
        spatial_axes=("x", "y"),
        grid=(recipe.grid, recipe.grid),
        domain_length=(solver.domain_length, solver.domain_length),
        frame_interval=recipe.frame_interval,
        boundary=solver.boundary,
        origin="generated",
        source=_source(recipe, seed),
    )
    with StoreWriter(root, info) as writer:
        for split, seeds in _seeds(seed, recipe).items():
            for first in range(0, len(seeds), SOLVED_TOGETHER):
                some = seeds[first : first + SOLVED_TOGETHER]
                solution = solver.solve(
                    some,
                    grid=recipe.grid,
                    frames=recipe.frames,
                    frame_interval=recipe.frame_interval,
                    device=device,
                )
                writer.append(split, solution.cpu().numpy(), {"seed": np.array(some)})


def _seeds(suite_seed: int, recipe: GeneratedDataset) -> dict[Split, range]:
    """Return disjoint seeds; more training trajectories leave the test split as it is."""
    first = suite_seed * SEEDS_PER_SUITE
    first_test = first + SEEDS_PER_SUITE // 2
    return {
        "train": range(first, first + recipe.train),
        "test": range(first_test, first_test + recipe.test),
    }


def _solver(name: str, recipe: GeneratedDataset) -> Solver:
    solver = SOLVERS[recipe.equation]
    known = [field.name for field in fields(solver)]
    for parameter in recipe.parameters:
        if parameter not in known:
            raise ConfigError(
                f"dataset {name}: the equation {recipe.equation} has no parameter {parameter!r}"
                f"{nearest(parameter, known)}; it has: {', '.join(known)}"
            )
    made: Solver = solver(**recipe.parameters)
    return made


def _check_recipe(root: Path, name: str, source: str) -> None:
    found = open_store(root, name).info.source
    if found != source:
        raise DataError(
            f"{root / name} was made by another recipe ({found}; now {source}); remove the folder "
            "to generate it anew, or set data.root to another one"
        )
