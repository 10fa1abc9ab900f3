"""Generates the datasets of a suite once; the seed of the suite decides every number."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.config.data import GeneratedDataset, SuiteConfig
from dpot_scale.data.generation.equations import parameters_of, solver_of
from dpot_scale.data.generation.progress import SolvingProgress
from dpot_scale.data.generation.solved import SolvedParts
from dpot_scale.data.generation.solvers.solver import Solver
from dpot_scale.data.generation.workers import Part, Solved, Workers, pieces, threads
from dpot_scale.data.info import MASK, NO_DIMENSION, DatasetInfo
from dpot_scale.data.store.cost import write_cost
from dpot_scale.data.store.dataset import INDEX, Split, counted, hold_folder, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import ConfigError, DataError

# Seeds of one suite seed; the upper half is for test trajectories, its end for valid ones.
SEEDS_PER_SUITE = 1_000_000
FIRST_VALID = 750_000


def generate_suite(
    suite: SuiteConfig,
    root: Path,
    *,
    progress: Callable[[str], None],
    workers: Callable[[], AbstractContextManager[Workers]] = threads,
) -> None:
    """Generate the datasets of a suite that are missing under `root`.

    Safe to call from several processes: one generates, the others wait and find the result.

    Args:
        suite: The recipe of every dataset.
        root: The folder of all datasets.
        progress: Takes one line of text for the user at a time.
        workers: Opens the workers that solve the equations, if any dataset is missing.

    Raises:
        ConfigError: there is no such equation, it has no such parameter, or there are too many
            trajectories.
        DataError: a dataset of the same name was made by another recipe.
    """
    infos = {name: _info(name, suite) for name in suite.datasets}
    if not missing_datasets(suite, root):  # nothing to write: the folder may be read-only
        return
    with hold_folder(root):
        missing = missing_datasets(suite, root)  # again: another process may have been faster
        if not missing:
            return
        with workers() as opened:
            for name in missing:
                started = time.perf_counter()
                recipe = suite.datasets[name]
                _generate(root, infos[name], recipe, suite.seed, opened, progress)
                progress(_outcome(infos[name], recipe, time.perf_counter() - started))


def _outcome(info: DatasetInfo, recipe: GeneratedDataset, seconds: float) -> str:
    grid = " x ".join(str(points) for points in info.grid)
    return (
        f"generated {info.name}: {counted(recipe.trajectories())} trajectories of "
        f"{recipe.frames} frames at {grid} in {seconds:.1f} s"
    )


def missing_datasets(suite: SuiteConfig, root: Path) -> list[str]:
    """Return the names of the datasets of a suite that are missing under `root`.

    Raises:
        DataError: a dataset of the same name was made by another recipe.
    """
    missing = []
    for name in suite.datasets:
        if (root / name / INDEX).exists():
            _check_recipe(root, name, suite.recipe(name))
        else:
            missing.append(name)
    return missing


def _generate(
    root: Path,
    info: DatasetInfo,
    recipe: GeneratedDataset,
    seed: int,
    workers: Workers,
    progress: Callable[[str], None],
) -> None:
    seeds, solver, parts = _seeds(seed, recipe), solver_of(recipe), SolvedParts(root, info)
    with StoreWriter(root, info, resume=True) as writer:
        # What an interrupted generation left behind is not solved again.
        missing = {split: of_split[writer.written(split) :] for split, of_split in seeds.items()}
        total = sum(map(len, seeds.values()))
        unsolved = sum(len(some) - parts.number_of(some) for some in missing.values())
        with closing(SolvingProgress(info.name, total, total - unsolved, progress)) as shown:
            for split, of_split in missing.items():
                for some, solved in _solved(recipe, of_split, parts, workers):
                    writer.append(split, solved.fields, _parameters(some, solver))
                    if solved.seconds:
                        parts.add(some, solved, seeds[split][: writer.written(split)])
                        shown.add(len(some))
    seconds = {
        split: [parts.seconds.get(seed) for seed in some] for split, some in seeds.items() if some
    }
    write_cost(root / info.name, seconds)
    parts.remove()


def _solved(
    recipe: GeneratedDataset, seeds: range, parts: SolvedParts, workers: Workers
) -> Iterator[tuple[range, Solved]]:
    """Yield consecutive trajectories with their seeds; those that were kept without a cost."""
    for some, kept in parts.cut(seeds):
        if kept is not None:
            yield some, Solved(kept, ())
            continue
        some_seeds = list(pieces(some, workers.part_size(recipe)))
        to_solve = (Part(recipe, of_part) for of_part in some_seeds)
        yield from zip(some_seeds, workers.solve_all(to_solve), strict=True)


def _parameters(seeds: range, solver: Solver) -> dict[str, NDArray[Any]]:
    """Return the parameters of the equation, which all trajectories share, and what each draws."""
    shared = parameters_of(solver)
    of_each = [{**shared, "seed": seed, **solver.drawn(seed)} for seed in seeds]
    return {name: np.array([of_one[name] for of_one in of_each]) for name in of_each[0]}


def _info(name: str, suite: SuiteConfig) -> DatasetInfo:
    recipe = suite.datasets[name]
    try:
        solver = solver_of(recipe)
    except ConfigError as error:
        raise ConfigError(f"dataset {name}: {error}") from None
    _check_seeds(name, recipe)
    axes = ("x", "y", "z")[: len(solver.domain_length)]
    return DatasetInfo(
        name=name,
        equation=recipe.equation,
        channels=solver.channels,
        scored=tuple(channel != MASK for channel in solver.channels),
        fluid_mask=MASK if MASK in solver.channels else "",
        spatial_axes=axes,
        grid=(recipe.grid,) * len(axes),
        domain_length=solver.domain_length,
        frame_interval=recipe.frame_interval,
        boundary=solver.boundary,
        staggering=solver.staggering,
        origin="generated",
        source=suite.recipe(name),
        # All equations are solved in units of their own scales.
        units=(NO_DIMENSION,) * len(solver.channels),
        length_unit=NO_DIMENSION,
        time_unit=NO_DIMENSION,
    )


def _check_seeds(name: str, recipe: GeneratedDataset) -> None:
    half, quarter = SEEDS_PER_SUITE // 2, SEEDS_PER_SUITE - FIRST_VALID
    most = {"train": half, "valid": quarter, "test": quarter if recipe.valid else half}
    for split, number in recipe.trajectories().items():
        if number > most[split]:
            raise ConfigError(
                f"dataset {name}: {split}={number}; a suite has seeds for {most[split]} "
                f"trajectories of the {split} split"
            )


def _seeds(suite_seed: int, recipe: GeneratedDataset) -> dict[Split, range]:
    """Return the seeds of each split. A larger split does not change the others."""
    first = suite_seed * SEEDS_PER_SUITE
    first_test = first + SEEDS_PER_SUITE // 2
    first_valid = first + FIRST_VALID
    return {
        "train": range(first, first + recipe.train),
        "valid": range(first_valid, first_valid + recipe.valid),
        "test": range(first_test, first_test + recipe.test),
    }


def _check_recipe(root: Path, name: str, source: str) -> None:
    found = open_store(root, name).info.source
    if found != source:
        raise DataError(
            f"{root / name} was made by another recipe ({found}; now {source}); remove the folder "
            "to generate it anew, or set data.root to another one"
        )
