"""Where a run starts. Weights from elsewhere: tests/checkpoints/test_weights.py."""

import pytest

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.config.load import load_run
from dpot_scale.errors import CheckpointError
from dpot_scale.runs.start import first_state


def test_a_step_that_the_run_does_not_have_is_refused() -> None:
    config = load_run("quickstart", ["batch.global_batch=4", "batch.micro_batch=1", "windows=12"])

    class Found:
        def __init__(self, step: int) -> None:
            self.state = TrainState(step=step)

        def restore(self, _engine: object) -> TrainState:
            return self.state

    assert first_state(config, None, Found(3)) == TrainState(step=3)
    with pytest.raises(CheckpointError, match="4 steps were made, but this run has 3: remove"):
        first_state(config, None, Found(4))
