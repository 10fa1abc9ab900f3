"""Where a run starts. Weights from elsewhere: tests/checkpoints/test_weights.py."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.weights import read
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, MARKER
from dpot_scale.config.run import RunConfig
from dpot_scale.data.channels import TrainingData
from dpot_scale.data.datasets import open_datasets
from dpot_scale.engine.network import build
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import CheckpointError, ConfigError, DataError
from dpot_scale.models.adapter import is_of_pair
from dpot_scale.models.dpot.released import write_released
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.runs.contents import weights_digest
from dpot_scale.runs.start import Begun, first_state, look_for_files, require_source


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
            self.contents: dict[str, str] = {}

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


class Drawn:
    """An engine of one process that holds what is drawn from a seed."""

    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(config.seed)
        self.network = build(config, "float32").eval()

    def full_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, value.detach().clone()) for name, value in self.network.named_parameters())

    def load_parameters(self, parameters: dict[str, torch.Tensor]) -> None:
        self.network.load_state_dict(parameters)


SIZE = ["model.width=16", "model.depth=2", "model.heads=2", "model.out_layer_dim=4"]
RELEASED = ["model.target=frame", "model.normalize=false", "model.skip_frames=0", *SIZE]


def begun(
    source: Path, world: World, *overrides: str, data: TrainingData | None = None
) -> tuple[Drawn, RunConfig, str]:
    config = load_run("quickstart", [*RELEASED, f"start.source={source}", *overrides])
    engine = Drawn(config)
    nothing = SimpleNamespace(world=world, contents={}, restore=lambda _: None)
    state, table = first_state(config, engine, nothing, data)
    assert state == TrainState()
    return engine, config, table


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the released ones are: four channels, ten frames, 2D."""
    path = tmp_path_factory.mktemp("released") / "model.pth"
    config = load_run("quickstart", [*RELEASED, "model.channels=4"])
    network = build(config, "float32")
    write_released(path, config.model, network.state_dict())
    return path


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.channels=4", "model.history=4"], "10 to 4 frames of history"),
        (["model.channels=4", "model.history=16"], "10 to 16 frames of history"),
        (["model.channels=4", "model.grid=96"], "8 x 8 to 12 x 12 latent points"),
        (["model.channels=6", "start.absent=draw"], "fields by position, 35 to 51 features"),
        (["model.space_dims=3", "model.grid=16", "start.absent=draw"], "2D to 3D"),
        (["model.channels=2", "model.history=1"], "10 to 1 frames of history"),  # steady Darcy
        (["model.channels=4", "start.adapter={rank: 2}"], "frozen"),
    ],
)
def test_a_released_file_starts_models_of_other_shapes(
    overrides: list[str], said: str, released: Path, world: World
) -> None:
    engine, config, table = begun(released, world, *overrides)
    assert said in table
    blocks = read(released).state
    for name, value in engine.network.state_dict().items():
        if name.startswith("blocks.") and not is_of_pair(name):
            assert torch.equal(value.flatten(), blocks[name].flatten()), name
    space = [config.model.grid] * config.model.space_dims
    frames = torch.randn(1, config.model.history, config.model.channels, *space)
    with torch.no_grad():
        assert engine.network(frames).frames.isfinite().all()


def test_what_is_drawn_again_is_that_of_the_seed(released: Path, world: World) -> None:
    words = ["model.channels=4", "start.components={head: redraw, time_agg: redraw}"]
    engine, config, _ = begun(released, world, *words)
    fresh, given = Drawn(config).network.state_dict(), read(released).state
    for name, value in engine.network.state_dict().items():
        drawn = name.startswith(("cls_head.", "time_agg_layer."))
        assert torch.equal(value, (fresh if drawn else given)[name]), name
    other, _, _ = begun(released, world, *words, "seed=1")
    assert not torch.equal(
        other.network.state_dict()["time_agg_layer.w"],
        engine.network.state_dict()["time_agg_layer.w"],
    )


def test_channels_are_found_by_the_names_in_an_export(tmp_path: Path, world: World) -> None:
    def named(*names: str) -> TrainingData:
        channels = {"scored": [True] * len(names), "mean": [0.0] * len(names)}
        channels |= {"std": [1.0] * len(names), "frame_interval": 1.0}
        return TrainingData.model_validate({"datasets": {"flow": {"names": names, **channels}}})

    config = load_run("quickstart", [*RELEASED, "model.channels=2"])
    source = tmp_path / "model.safetensors"
    weights = build(config, "float32").state_dict()
    save_model(source, config.model, weights, named("u", "v"))
    wanted = ["model.channels=3", "start.absent=draw"]
    engine, _, table = begun(source, world, *wanted, data=named("v", "p", "u"))
    assert "fields by name" in table
    last = engine.network.state_dict()["out_layer.4.weight"]
    assert torch.equal(last[[2, 0]], weights["out_layer.4.weight"])
    with pytest.raises(ConfigError, match="the weights have no fields p; or start"):
        begun(source, world, wanted[0], data=named("v", "p", "u"))


def test_what_is_drawn_may_not_stay_as_it_is(released: Path, world: World) -> None:
    words = ["model.channels=6", "start.absent=draw", "start.adapter={rank: 2}"]
    trains = ["start.components.patch_embed.lr=1", "start.components.output.lr=1"]
    said = "patch_embed, output are drawn .* to let them train, add " + re.escape(" ".join(trains))
    with pytest.raises(ConfigError, match=said):
        begun(released, world, *words)
    begun(released, world, *words, *trains)


def test_other_weights_than_the_identity_names_are_refused(tmp_path: Path, world: World) -> None:
    """Where the source has gone on since, or its newest checkpoint is damaged."""
    third = Path(__file__).parents[1] / "golden" / "formats" / "third" / "finished"
    source = shutil.copytree(third / "checkpoints", tmp_path / "run" / "checkpoints").parent
    digest = weights_digest(source)
    assert digest == weights_digest(source / "checkpoints" / "step_000024")
    assert digest is not None
    assert digest.endswith(" step 24")
    config = load_run("quickstart", [f"start.source={source}"])
    planned = {"start": digest.replace("24", "16")}
    nothing = SimpleNamespace(world=world, contents=planned, restore=lambda _: None)
    said = r"was at .* step 16 when this run was planned, and its newest .*step_000024: start"
    with pytest.raises(CheckpointError, match=said):
        first_state(config, None, nothing)


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


def test_a_run_that_has_begun_goes_on_without_a_file(
    tiny_yaml: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_run(str(tiny_yaml), [f"data.root={tmp_path}/data", f"output={tmp_path}/runs"])
    stores = open_datasets(config.data, config.model, progress=lambda _: None)
    look_for_files(config, stores)
    (shard,) = (tmp_path / "data" / "swe_coarse" / "train").glob("*.h5")
    shard.unlink()
    with pytest.raises(DataError, match=f"dataset swe_coarse is not complete: {shard} "):
        look_for_files(config, stores)
    checkpoint = config.directory / "checkpoints" / "step_000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / MARKER).write_text("{}")
    look_for_files(config, stores)
    assert "the run goes on, as limits.unreadable allows" in caplog.text
