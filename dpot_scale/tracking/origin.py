"""Where an MLflow run comes from: the command, the code, the versions and the machine, as tags."""

import getpass
import platform
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dpot_scale.config.places import in_job
from dpot_scale.errors import this_command

PACKAGES = ("dpot_scale", "torch", "deepspeed", "ray", "mlflow")
REPOSITORY = Path(__file__).parents[2]
GIT_SECONDS = 10.0


def origin() -> dict[str, str]:
    """Return tags that say what made an MLflow run; what cannot be found out is left out.

    `mlflow.source.*` and `mlflow.user` are those for which MLflow has columns of its own.
    """
    tags = {
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "JOB" if in_job() else "LOCAL",
        "command": this_command(),
        "host": socket.gethostname(),
        "version.python": platform.python_version(),
    }
    with suppress(OSError, KeyError):  # a container may know no name for its user
        tags["mlflow.user"] = getpass.getuser()
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            tags[f"version.{package}"] = version(package)
    return tags | _commit()


def _commit() -> dict[str, str]:
    """Return the commit of this code, and whether it was changed since; nothing without git."""
    with suppress(OSError, subprocess.SubprocessError):
        top, commit = _git("rev-parse", "--show-toplevel", "HEAD").split()
        if Path(top) == REPOSITORY:  # else an installed copy, below a repository of its user
            changed = _git("status", "--porcelain", "--untracked-files=no", "--", "dpot_scale")
            changes = {"git.changed": "true"} if changed else {}
            return {"mlflow.source.git.commit": commit} | changes
    return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=GIT_SECONDS,
    )
    return done.stdout
