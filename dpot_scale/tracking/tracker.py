"""Records the metrics of one run: in its spool at once, and in MLflow in the background."""

import time
from collections.abc import Mapping
from pathlib import Path

from dpot_scale.config.run import TrackingConfig
from dpot_scale.tracking.mirror import Mirror
from dpot_scale.tracking.spool import SPOOL, STEP, TIME, open_spool


class Tracker:
    """Records the metrics of one run. Only the main rank writes.

    Args:
        directory: The run's. Once it remembers an MLflow run, the metrics are mirrored there.
        config: Where MLflow is, if it is used.
        is_main: Whether this process is the main rank.
    """

    def __init__(self, directory: Path, config: TrackingConfig, *, is_main: bool) -> None:
        self._spool = open_spool(directory / SPOOL) if is_main else None
        self._mirror: Mirror | None = None
        if is_main and config.mlflow_uri:
            self._mirror = Mirror(directory, config.mlflow_uri)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record metrics of a step; a full disk is said, and ends nothing."""
        if self._spool is not None:
            self._spool.append({STEP: step, TIME: time.time(), **metrics})

    def settle(self) -> None:
        """Make sure that all that was recorded is in the spool.

        Raises:
            DiskError: the disk is full.
        """
        if self._spool is not None:
            self._spool.flush()

    def close(self) -> None:
        """Close the spool and give the mirror some time to catch up."""
        if self._spool is not None:
            self._spool.close()
        if self._mirror is not None:
            self._mirror.close()
