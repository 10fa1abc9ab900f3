"""Where a run starts. Weights from elsewhere: tests/checkpoints/test_weights.py."""

from pathlib import Path

import pytest
import torch

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, MARKER
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.runs.start import Begun, first_state, require_source


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


def test_a_step_that_the_run_does_not_have_is_refused() -> None:
    config = load_run("quickstart", ["batch.global_batch=4", "batch.micro_batch=1", "windows=12"])

    class Found:
        def __init__(self, step: int) -> None:
            self.state = TrainState(step=step)

        def restore(self, _engine: object) -> TrainState:
            return self.state

    assert first_state(config, None, Found(3)) == Begun(TrainState(step=3))
    with pytest.raises(CheckpointError, match="4 steps were made, but this run has 3: remove"):
        first_state(config, None, Found(4))


@pytest.mark.parametrize("target", ["frame", "residual"])
def test_weights_of_another_target_are_refused(target: str, tmp_path: Path, world: World) -> None:
    """Their shapes fit, and their forecasts would mean something else."""
    other = {"frame": "residual", "residual": "frame"}[target]
    small = [f"model.{part}" for part in ("width=16", "depth=1", "heads=2", "grid=16")]
    source = tmp_path / "model.safetensors"
    model = load_run("quickstart", [*small, f"model.target={target}"]).model
    weights = family_of(model).network(model, KEEP_ALL, "float32").state_dict()
    save_model(source, model, weights)
    loaded = []

    class Engine:
        def load_parameters(self, parameters: object) -> None:
            loaded.append(parameters)

    class Nothing:
        def __init__(self) -> None:
            self.world = world

        def restore(self, _engine: object) -> None:
            return None

    begun = [*small, f"start.source={source}"]
    wrong = load_run("quickstart", [*begun, f"model.target={other}"])
    sentence = f"model.target={other}, but the weights need: model.target={target}; or start"
    with pytest.raises(ConfigError, match=sentence):
        first_state(wrong, Engine(), Nothing())
    assert loaded == []
    right = load_run("quickstart", [*begun, f"model.target={target}"])
    state, table = first_state(right, Engine(), Nothing())
    assert state == TrainState()
    assert "blocks" in table
    (given,) = loaded
    torch.testing.assert_close(given, dict(weights), rtol=0, atol=0)


def test_first_weights_that_are_nowhere_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    config = load_run("quickstart", [f"start.source={absent}", f"output={tmp_path}"])
    with pytest.raises(
        CheckpointError, match=r"start\.source: .*absent does not exist; give the fold"
    ):
        require_source(config)
    checkpoint = config.directory / CHECKPOINTS / "step_000001"
    checkpoint.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"absent does not exist"):
        require_source(config)
    (checkpoint / MARKER).touch()
    require_source(config)  # it goes on from there
    absent.touch()
    require_source(config)
