"""A config as parameters of an MLflow run: a trial says what sets it apart, its sweep the rest."""

from collections.abc import Mapping, Sequence

from pydantic_core import to_jsonable_python

from dpot_scale.config.base import Section
from dpot_scale.config.data import SuiteConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import Strategy
from dpot_scale.config.sweep import SweepConfig

MODEL = "model."
# Names and places: MLflow shows the name, and the command and the file `config.yaml` have the rest.
LEFT_OUT = ("name", "output", "data.root", "tracking.mlflow_uri", "tracking.experiment")


def run_parameters(run: RunConfig) -> dict[str, str]:
    """Return the values of a run by dotted keys, with all dimensions of its model.

    What is not set is left out: a column of None says nothing.
    """
    pairs = _flat(run)
    return {key: text for key, text in pairs if text not in ("None", "[]") and key not in LEFT_OUT}


def differing(runs: Sequence[RunConfig]) -> frozenset[str]:
    """Return the keys whose values are not the same in all runs."""
    found = [run_parameters(run) for run in runs]
    keys = {key for params in found for key in params}
    return frozenset(key for key in keys if len({params.get(key) for params in found}) > 1)


def trial_parameters(run: RunConfig, label: str, differing: frozenset[str]) -> dict[str, str]:
    """Return what sets a trial apart, and its model."""
    params = run_parameters(run).items()
    own = {key: text for key, text in params if key in differing or key.startswith(MODEL)}
    return {"size": label} | own


def sweep_parameters(sweep: SweepConfig, differing: frozenset[str]) -> dict[str, str]:
    """Return what all trials of a sweep have in common, and its design."""
    shared = {k: text for k, text in run_parameters(sweep.run).items() if k not in differing}
    resources = {key: text for key, text in _flat(sweep.resources, "resources") if text != "None"}
    return {"design": described(sweep)} | resources | shared


def described(sweep: SweepConfig) -> str:
    """Return the design of a sweep in one line."""
    return "; ".join(f"{entry.kind}: {_words(entry)}" for entry in sweep.factors)


def _words(entry: Section) -> str:
    """Return an entry of a design, of which one field is set; of a mapping the labels suffice."""
    value = next(value for _, value in entry if value is not None)
    if isinstance(value, Section):
        pairs = ((name, item) for name, item in value if item is not None)
        return ", ".join(f"{name} {_listed(item)}" for name, item in pairs)
    return _listed(value)


def _listed(value: object) -> str:
    plain = to_jsonable_python(value)
    return ", ".join(map(str, plain)) if isinstance(plain, list | dict) else str(plain)


def _flat(value: object, key: str = "") -> list[tuple[str, str]]:
    """Return dotted keys and values as text; a strategy and a suite count by their names."""
    if isinstance(value, Strategy | SuiteConfig):
        return [(key, value.name)]
    if isinstance(value, ModelConfig):
        value = value.dimensions()
    if not isinstance(value, Section | Mapping):
        return [(key, str(to_jsonable_python(value)))]
    items = value.items() if isinstance(value, Mapping) else iter(value)
    return [pair for name, item in items for pair in _flat(item, f"{key}.{name}".lstrip("."))]
