"""Where a run starts. Weights from elsewhere: tests/checkpoints/test_weights.py."""

import pytest

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.config.load import load_run
from dpot_scale.errors import CheckpointError
from dpot_scale.runs.start import first_state


@pytest.mark.parametrize(("step", "windows_seen"), [(2, 8), (2, 5), (4, 16), (0, 4)])
def test_a_position_that_no_step_ends_in_is_refused(step: int, windows_seen: int) -> None:
    config = load_run("quickstart", ["batch.global_batch=4", "batch.micro_batch=1", "windows=12"])
    state = TrainState(step=step, windows_seen=windows_seen)

    class Found:
        def restore(self, _engine: object) -> TrainState:
            return state

    if (step, windows_seen) == (2, 8):
        assert first_state(config, None, Found()) is state
        return
    with pytest.raises(CheckpointError, match="but this run has 3 steps of 4 windows: remove"):
        first_state(config, None, Found())
