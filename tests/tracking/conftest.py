"""What tests of the spool and of its mirror have in common."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpot_scale.config.run import TrackingConfig
from dpot_scale.tracking.tracker import Tracker


@pytest.fixture
def record() -> Callable[..., None]:
    """Record a loss of 1 / step for some steps, as one attempt at a run does."""

    def record_losses(directory: Path, tracking: TrackingConfig, *steps: int) -> None:
        tracker = Tracker(directory, tracking, is_main=True)
        for step in steps:
            tracker.log({"train/loss": 1 / step}, step=step)
        tracker.close()

    return record_losses
