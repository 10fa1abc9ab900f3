"""Where a run or sweep reads and writes: paths made absolute before they reach other places."""

import os
from collections.abc import Callable
from pathlib import Path

from dpot_scale.config.design import Design
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import SweepConfig

Locate = Callable[[Path], Path]  # from a source of weights to where it lies, an absolute path

HOME_VARIABLE = "DPOT_SCALE_HOME"
SQLITE = "sqlite:///"
MLFLOW_URI = f"{SQLITE}mlflow.db"  # what `mlflow ui` opens

REGISTERED = "registered"  # where weights out of MLflow's registry are kept, beside results

# What lies in the folder of a run.
RUN_CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
WEIGHTS = "model.safetensors"  # the consolidated fp32 export of a finished run
RESULT_FILE = "result.json"
ROLLBACKS = "rollbacks.json"  # what it skips
QUARANTINE = "quarantine.json"  # what it could not read
METRICS = "metrics.jsonl"
MLFLOW_RECORD = "mlflow.json"  # what MLflow is to know of it beside its metrics
FIGURES = "figures"
HUB_CONFIG = "config.json"  # beside weights in the layout of Hugging Face

# What lies in the folder of a sweep.
SWEEP_CONFIG = "sweep.yaml"
JOURNAL = "journal.jsonl"
TRIALS = "trials"

INPUTS = "inputs.json"  # in both: what they read beside their config, by content
LOCK = ".lock"  # in both: held while it trains
MARKER = "COMMITTED.json"  # in a checkpoint


def results_home() -> Path:
    """Return where relative paths of results begin: here, unless this is a Ray job.

    The working directory of a job is an unpacked copy in Ray's temporary folder: what is written
    there is lost, so a job writes to ~/dpot_scale. DPOT_SCALE_HOME decides where it is set.
    """
    if HOME_VARIABLE in os.environ:
        return Path(os.environ[HOME_VARIABLE]).expanduser().resolve()
    return Path.home() / "dpot_scale" if in_job() else Path.cwd()


def in_job() -> bool:
    """Return whether this process was submitted as a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def in_home(path: Path) -> Path:
    """Return where a path of data or results that a command line names lies."""
    return results_home() / path


def resolve_sweep_paths(
    sweep: SweepConfig, home: Path, locate: Locate | None = None
) -> SweepConfig:
    """Return the sweep with absolute paths: Ray's workers have a working directory of their own.

    What is written lies under `home`; files that are only read are sought from here.

    Args:
        sweep: The sweep.
        home: Where results begin.
        locate: Finds the weights to start from; None: they are paths.
    """
    locate = locate or absolute
    design = tuple(_resolve_entry(entry, home, locate) for entry in sweep.design)
    run = resolve_run_paths(sweep.run, home, locate)
    return sweep.model_copy(update={"run": run, "design": design})


def _resolve_entry(entry: Design, home: Path, locate: Locate) -> Design:
    """Return an entry of a design with absolute paths."""
    if entry.start is not None:
        start = {label: path and locate(path) for label, path in entry.start.items()}
        return entry.model_copy(update={"start": start})
    if entry.grid is not None:
        grid = {
            k: tuple(_resolve_value(k, v, home, locate) for v in vs) for k, vs in entry.grid.items()
        }
        return entry.model_copy(update={"grid": grid})
    if entry.ablation is not None:
        ablation = {
            label: {k: _resolve_value(k, value, home, locate) for k, value in changes.items()}
            for label, changes in entry.ablation.items()
        }
        return entry.model_copy(update={"ablation": ablation})
    return entry


def _resolve_value(key: str, value: object, home: Path, locate: Locate) -> object:
    """Return the value of a field of a sweep's run, absolute if it is a path."""
    if not isinstance(value, str | Path):
        return value
    if key == "run.data.root":
        return str(home / value)
    if key == "run.start.source":
        return str(locate(Path(value)))
    return value


def resolve_run_paths(run: RunConfig, home: Path, locate: Locate | None = None) -> RunConfig:
    """Return the run with absolute paths, so that its saved config means the same anywhere.

    Args:
        run: The run.
        home: Where results begin.
        locate: Finds the weights to start from; None: they are a path.
    """
    tracking, uri = run.tracking, run.tracking.mlflow_uri
    if uri is not None:
        tracking = tracking.model_copy(update={"mlflow_uri": absolute_uri(uri, home)})
    data = run.data.model_copy(update={"root": home / run.data.root})
    run = with_absolute_source(run, locate)
    return run.model_copy(
        update={
            "output": home / run.output,
            "data": data,
            "tracking": tracking,
        }
    )


def with_absolute_source(run: RunConfig, locate: Locate | None = None) -> RunConfig:
    """Return the run with the weights that it starts from sought from here."""
    source = run.start.source and (locate or absolute)(run.start.source)
    return run.model_copy(update={"start": run.start.model_copy(update={"source": source})})


def absolute(path: Path) -> Path:
    """Return where links lead; of links in a circle one of them, which whoever opens it refuses."""
    return Path(os.path.realpath(path))


def absolute_uri(uri: str, base: Path) -> str:
    """Return an MLflow URI that means the same in any working directory."""
    path = uri.removeprefix(SQLITE)
    return uri if path == uri else f"{SQLITE}{base.resolve() / path}"
