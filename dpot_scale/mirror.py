"""Entry: send to MLflow what it lacks of runs and sweeps, whatever became of it while they ran."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dpot_scale.config.arguments import Entry
from dpot_scale.config.places import SWEEP_CONFIG, TRIALS
from dpot_scale.errors import ConfigError, exits_cleanly
from dpot_scale.terminal import print_line


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Send what is missing; the exit code is 2 if MLflow does not take it."""
    entry = Entry(
        "mirror",
        "Send to MLflow what it lacks of runs and sweeps: points, parameters, status and files. An "
        "MLflow run is made where there is none. What MLflow has is not sent twice.",
        _execute,
    )
    entry.add_argument(
        "folders", type=Path, nargs="+", metavar="RUN_OR_SWEEP_DIR", help="of a run or a sweep"
    )
    entry.add_argument(
        "--mlflow-uri",
        metavar="URI",
        help="the tracking server or database, if not that of the run",
    )
    return entry.run(argv)


def _execute(options: argparse.Namespace) -> int:
    folders = [folder for given in options.folders for folder in _runs_in(given)]
    # MLflow loads for a second.
    from dpot_scale.runs.tracked import send

    for folder in folders:
        print_line(f"{folder}: {send(folder, options.mlflow_uri)}")
    return 0


def _runs_in(folder: Path) -> list[Path]:
    """Return the folder of a run, or that of a sweep and those of its trials."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    is_sweep = (folder / SWEEP_CONFIG).is_file()
    trials = folder / TRIALS
    return [folder, *sorted(path for path in trials.glob("*") if path.is_dir() and is_sweep)]


if __name__ == "__main__":
    sys.exit(main())
