"""Whether a run of benchmarks/soak.py is what an undisturbed run is, on the disk and in MLflow."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

from mlflow.tracking import MlflowClient
from soak_runs import Training
from soak_servers import environment

from dpot_scale.checkpoints.checkpoint import committed, verify
from dpot_scale.config.places import QUARANTINE
from dpot_scale.runs.result import read_result
from dpot_scale.tracking.mlflow_client import client, read_run_id
from dpot_scale.tracking.spool import SPOOL, read_metrics

OF_THE_RUN = ("train/", "eval/")  # not what depends on the speed of the machine
Curves = Mapping[str, Mapping[int, float]]


def differences(training: Training, expected: Curves) -> list[str]:
    """Return in words how a finished run differs from an undisturbed one.

    Args:
        training: The run.
        expected: Of the undisturbed one.
    """
    found = of_curves(curves_of(training), expected)
    if read_result(training.directory) is None:
        found.append("there is no result")
    checkpoints = committed(training.checkpoints())
    names = {path.name for path in training.checkpoints().iterdir()}
    if names != {one.folder.name for one in checkpoints} or any(map(verify, checkpoints)):
        found.append(f"checkpoints/ holds {sorted(names)}")
    partial = [path.name for path in training.results.rglob("*partial*")]
    return found + [f"{name} is left in its folder" for name in partial]


def curves_of(training: Training) -> Curves:
    """Return the curves of a run that do not depend on the speed of the machine."""
    curves = read_metrics(training.directory / SPOOL)
    return {key: curve for key, curve in curves.items() if key.startswith(OF_THE_RUN)}


def of_curves(found: Curves, expected: Curves) -> list[str]:
    """Return in words where curves are not equal bit for bit."""
    words = []
    for key in sorted(found.keys() | expected.keys()):
        one, other = found.get(key, {}), expected.get(key, {})
        differ = [step for step in one.keys() | other.keys() if one.get(step) != other.get(step)]
        if differ:
            first = min(differ)
            words.append(
                f"{key} differs at {len(differ)} steps, first at {first}: {one.get(first)!r} in "
                f"place of {other.get(first)!r}"
            )
    return words


def of_mlflow(training: Training, address: str) -> list[str]:
    """Return in words what MLflow lacks of a run, or has twice."""
    mlflow_client = client(address)
    experiment = mlflow_client.get_experiment_by_name(training.name)
    if experiment is None:
        return ["MLflow has nothing of it"]
    runs = mlflow_client.search_runs([experiment.experiment_id])
    found = [] if len(runs) == training.runs else [f"MLflow has {len(runs)} runs of it"]
    for run in runs:
        end = (run.info.status, run.data.tags.get("stop"))
        if end != ("FINISHED", "finished"):
            found.append(f"MLflow says that {run.info.run_name} ended as {end}")
    run_id = read_run_id(training.directory)
    return found + (
        ["MLflow has no run of it"]
        if run_id is None
        else of_points(
            mlflow_client,
            run_id,
            read_metrics(training.directory / SPOOL),
            has_lost_some=bool(training.lost),
        )
    )


def of_points(
    mlflow_client: MlflowClient, run_id: str, curves: Curves, *, has_lost_some: bool = False
) -> list[str]:
    """Return in words which points of a run MLflow lacks, has twice, or has otherwise.

    Args:
        mlflow_client: Where the run is.
        run_id: The run.
        curves: Of the run, as it has recorded them.
        has_lost_some: Whether there may be more, as of when it was saved.
    """
    found = []
    for key, curve in curves.items():
        points = mlflow_client.get_metric_history(run_id, key)
        steps = [point.step for point in points]
        may_be = set(steps) if has_lost_some and not key.startswith(OF_THE_RUN) else set()
        if sorted(steps) != sorted(may_be | curve.keys()):
            found.append(f"MLflow has {len(points)} points of {key} in place of {len(curve)}")
        elif key.startswith(OF_THE_RUN):
            there = {point.step: point.value for point in points}
            found += [f"in MLflow {word}" for word in of_curves({key: there}, {key: curve})]
    return found


def of_archive(training: Training) -> list[str]:
    """Return in words how the archive of a finished run differs from what is on the disk."""
    there = with_records(training.around.archive.content(training.archive_url))
    here = {
        str(path.relative_to(training.checkpoints())): path.read_bytes()
        for path in training.checkpoints().rglob("*")
        if path.is_file()
    }
    here |= {
        path.name: path.read_bytes()
        for name in (SPOOL, QUARANTINE)
        if (path := training.directory / name).exists()
    }
    names = {name for name in there if name in here or name.startswith("step_")} | here.keys()
    differ = sorted(name for name in names if here.get(name) != there.get(name))
    return [f"the archive differs in {', '.join(differ)}"] if differ else []


def with_records(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of an archive, with the records that lie there in pieces, by their names."""
    lists = [name for name in files if name.startswith("records/list_")]
    pieces = json.loads(files[max(lists)])["pieces"] if lists else {}
    return dict(files) | {
        name: b"".join(files.get(f"records/{one}", b"") for one in sums)
        for name, sums in pieces.items()
    }


def send_what_is_missing(results: Sequence[str]) -> None:
    """Send what MLflow lacks; what fails shows in the next comparison."""
    command = [sys.executable, "-m", "dpot_scale.mirror", *results]
    subprocess.run(command, env=environment(), capture_output=True, check=False)
