"""Where a run starts. Weights from elsewhere: tests/checkpoints/test_weights.py."""

from pathlib import Path

import pytest

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, MARKER
from dpot_scale.errors import CheckpointError
from dpot_scale.runs.start import first_state, require_source


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


def test_first_weights_that_are_nowhere_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    config = load_run("quickstart", [f"initialize_from={absent}", f"output={tmp_path}"])
    with pytest.raises(CheckpointError, match=r"absent does not exist; give the folder of a run"):
        require_source(config)
    checkpoint = config.directory / CHECKPOINTS / "step_000001"
    checkpoint.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"absent does not exist"):
        require_source(config)
    (checkpoint / MARKER).touch()
    require_source(config)  # it goes on from there
    absent.touch()
    require_source(config)
