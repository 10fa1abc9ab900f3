"""Every equation that can be solved, by name: the one place that a new solver is added to."""

from dataclasses import fields
from typing import Any

from dpot_scale.config.data import GeneratedDataset
from dpot_scale.config.sentences import nearest
from dpot_scale.data.generation.solvers.compressible import (
    Compressible,
    Compressible3D,
    CompressibleTurbulence,
    CompressibleTurbulence3D,
)
from dpot_scale.data.generation.solvers.darcy import Darcy
from dpot_scale.data.generation.solvers.navier_stokes import NavierStokes
from dpot_scale.data.generation.solvers.obstacle import Cavity, Cylinder, ObstacleMixture, Tube
from dpot_scale.data.generation.solvers.reaction_diffusion import ReactionDiffusion
from dpot_scale.data.generation.solvers.shallow_water import ShallowWater
from dpot_scale.data.generation.solvers.smoke import Smoke
from dpot_scale.data.generation.solvers.solver import Solver
from dpot_scale.errors import ConfigError

SOLVERS: dict[str, type[Any]] = {
    solver.equation: solver
    for solver in (
        NavierStokes,
        ReactionDiffusion,
        ShallowWater,
        Compressible,
        CompressibleTurbulence,
        Compressible3D,
        CompressibleTurbulence3D,
        Smoke,
        Cavity,
        Tube,
        Cylinder,
        ObstacleMixture,
        Darcy,
    )
}


def solver_of(recipe: GeneratedDataset) -> Solver:
    """Return the equation of a recipe with its parameters.

    Raises:
        ConfigError: there is no such equation, or it has no such parameter.
    """
    if recipe.equation not in SOLVERS:
        raise ConfigError(
            f"there is no equation {recipe.equation!r}{nearest(recipe.equation, SOLVERS)}; "
            f"there are: {', '.join(SOLVERS)}"
        )
    solver = SOLVERS[recipe.equation]
    known = [field.name for field in fields(solver)]
    for parameter in recipe.parameters:
        if parameter not in known:
            raise ConfigError(
                f"the equation {recipe.equation} has no parameter {parameter!r}"
                f"{nearest(parameter, known)}; it has: {', '.join(known)}"
            )
    made: Solver = solver(**recipe.parameters)
    return made


def parameters_of(solver: Solver) -> dict[str, float]:
    """Return the parameters of an equation: those of its recipe, and the default of each other."""
    names = [field.name for field in fields(SOLVERS[solver.equation])]
    return {name: float(getattr(solver, name)) for name in names}
