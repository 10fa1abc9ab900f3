"""What MLflow is told of a run: its parameters, its datasets, and the files at its end."""

from pathlib import Path

from dpot_scale.config.identity import Contents
from dpot_scale.config.load import load_run
from dpot_scale.config.places import FIGURES, RUN_CONFIG
from dpot_scale.config.run import RunConfig
from dpot_scale.errors import ConfigError, UserError
from dpot_scale.runs.contents import read_contents
from dpot_scale.runs.signs import speak
from dpot_scale.tracking.missing import send_missing
from dpot_scale.tracking.mlflow_client import reason
from dpot_scale.tracking.mlflow_run import MlflowRun
from dpot_scale.tracking.parameters import run_parameters
from dpot_scale.tracking.record import MlflowRecord, read_mlflow_record, record_end
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.tracking.trained_on import trained_on

DEEPSPEED_CONFIG = "deepspeed.json"  # as DeepSpeed got it


def mlflow_run_of(config: RunConfig, contents: Contents) -> MlflowRun:
    """Return the MLflow run of a run that no sweep owns.

    Args:
        config: The run, with absolute paths.
        contents: What it reads.
    """
    return MlflowRun(
        config.directory,
        config,
        config.tracking,
        name=config.name,
        params=run_parameters(config),
        datasets=trained_on(config.data, contents),
    )


def run_artifacts(directory: Path) -> dict[Path, str]:
    """Return the files that reviewers want beside the curves, and their folder in MLflow."""
    artifacts = dict.fromkeys(sorted((directory / FIGURES).glob("*.png")), FIGURES)
    deepspeed_config = directory / DEEPSPEED_CONFIG
    return artifacts | ({deepspeed_config: ""} if deepspeed_config.exists() else {})


def send(directory: Path, elsewhere: str | None = None) -> str:
    """Send to MLflow what it lacks of a run or sweep; return in words what that was.

    Args:
        directory: The folder.
        elsewhere: Another MLflow than that of the run.

    Raises:
        UserError: MLflow does not take it, or nothing says where that is.
    """
    record = read_mlflow_record(directory) or _record_of_before(directory, elsewhere)
    if record is None:
        return "has no MLflow run; start the sweep again to make one"
    try:
        points = send_missing(directory, record, elsewhere=elsewhere, beat=lambda: None)
    except UserError:
        raise
    except Exception as error:  # MLflow's own and those of its store
        uri = elsewhere or record.uri
        raise UserError(
            f"MLflow at {uri} did not take all of {directory}: {reason(error)}; nothing is lost, "
            "do this again when it answers"
        ) from error
    return f"sent {points:,} points" if points else "MLflow has all points"


def _record_of_before(directory: Path, elsewhere: str | None) -> MlflowRecord | None:
    """Return the record of a run that has none: it had no MLflow, or an earlier version made it."""
    if not (directory / RUN_CONFIG).is_file():
        return None
    config = load_run(str(directory / RUN_CONFIG))
    tracking = config.tracking
    if tracking.mlflow_uri is None and elsewhere is None:
        raise ConfigError(
            f"{directory} was trained with tracking.mlflow_uri=null: say with --mlflow-uri where "
            "it is to be shown"
        )
    written = config.directory
    record = mlflow_run_of(config, read_contents(config, directory)).record()
    files = {str(path.relative_to(directory)): to for path, to in run_artifacts(directory).items()}
    return record.model_copy(update={"directory": written, "artifacts": files})


def last_words(
    config: RunConfig, tracker: Tracker, life: MlflowRun, opens_mlflow_run: bool, verdict: str
) -> None:
    """Say and record why ranks give an attempt up, on the one that speaks for all.

    Under Ray the driver does so.
    """
    if opens_mlflow_run:
        speak(verdict)
        record_end(config.directory, verdict)
        tracker.close()
        life.close("FAILED", stop=verdict)  # where this rank has opened it
