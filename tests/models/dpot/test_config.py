import pytest
import yaml

from dpot_scale.config.load import dump, load_run, load_sweep
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.config import SIZES, DPOTConfig


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["width=512", "heads=3"], "model.heads=3: must be a divisor of width=512"),
        (["heads=3"], "model.heads=3: must be a divisor of width=64"),
        (
            ["grid=[64,96,64]"],
            "model.grid=[64,96,64]: must be one number, or a list of space_dims=2",
        ),
        (["grid=[64,0]"], "model.grid.1=0: must be at least 1"),
        (
            ["conditioning=[parameters]"],
            "model: conditioning=[parameters] needs their names, as parameters=[viscosity]",
        ),
        (["parameters=[eta]"], "model: parameters=[eta] needs conditioning=[parameters]"),
        (
            ["conditioning=[dt,parameters]", "parameters=[dt]"],
            "model: conditioning=[dt, parameters] and parameters=[dt] name something twice",
        ),
        (["conditioning=[dt,dt]"], "model: conditioning=[dt, dt] and parameters=[] name something"),
        (["conditioning=[t]"], "model.conditioning.0='t': must be 'dt' or 'parameters'"),
        (["grid=0"], "model.grid=0: must be at least 1 or a list, as [1, 2]"),
        (["width=12", "heads=4"], "model.width=12: must be a multiple of 8, the number of norm"),
        (["size=ti"], "model.size=ti: must be 'debug', 'Ti', 'S', 'M', 'L' or 'H' (did you mean"),
        (["size=ti", "heads=0"], "(and 1 more)"),
        (["skip_frames=11"], "model.skip_frames=11: must be at most history=10"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(overrides, sentence):
    with pytest.raises(ConfigError) as refused:
        load_run("quickstart", [f"model.{override}" for override in overrides])
    assert sentence in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        load_sweep("quickstart", [f"ladder.Ti.{override}" for override in overrides])
    of_ladder = sentence.replace("model.", "ladder.Ti.").replace("model:", "ladder.Ti:")
    assert of_ladder.replace("=64", "=512") in str(refused.value)


def test_a_dimension_set_apart_replaces_that_of_the_size():
    model = DPOTConfig(size="L", depth=3, grid=64)
    assert (model.width, model.depth, model.heads, model.latent_grid) == (1536, 3, 16, (8, 8))


@pytest.mark.parametrize(
    ("grid", "saved", "points", "latent"),
    [
        (64, "64", (64, 64), (8, 8)),
        ([64, 64], "64", (64, 64), (8, 8)),
        ([96, 160], "[96, 160]", (96, 160), (12, 20)),
        ([100, 65], "[100, 65]", (100, 65), (13, 9)),  # padded to 104 x 72
    ],
)
def test_a_grid_is_one_number_or_one_for_each_axis(grid, saved, points, latent, tmp_path):
    written = tmp_path / "config.yaml"
    written.write_text(dump(load_run("quickstart", [f"model.grid={grid}"])))
    model = load_run(str(written)).model
    assert yaml.safe_load(written.read_text())["model"]["grid"] == yaml.safe_load(saved)
    assert (model.space, model.latent_grid) == (points, latent)
    assert model.padded(points) == tuple(8 * n for n in latent)
    assert model == load_run("quickstart", [f"model.grid={saved}"]).model


@pytest.mark.parametrize("size", SIZES)
def test_another_size_takes_effect_over_a_saved_config(size, tmp_path):
    """A saved config leaves out what the size says, and keeps what was set apart."""
    saved = tmp_path / "config.yaml"
    overrides = ["model.size=S", "model.depth=5", "model.target=frame", "model.skip_frames=0"]
    saved.write_text(dump(load_run("quickstart", overrides)))
    assert "width" not in yaml.safe_load(saved.read_text())["model"]
    model = load_run(str(saved), [f"model.size={size}"]).model
    assert model == DPOTConfig(size=size, depth=5, grid=64, channels=2, normalize=True)
    assert load_run(str(saved)).model.width == SIZES["S"].width


def test_a_dimension_without_a_value_is_that_of_the_size():
    """As configs say that were saved before they left it out."""
    model = load_run("quickstart", ["model.width=null", "model.size=S"]).model
    assert model.width == SIZES["S"].width


@pytest.mark.parametrize(
    ("space_dims", "grid", "modes", "kept", "symmetric"),
    [
        (2, 128, 32, (16, 9), (16, 9)),  # the published models keep everything
        (2, 128, 5, (5, 5), (9, 5)),
        (2, (128, 64), 8, (8, 5), (15, 5)),
        (2, (64, 128), 8, (8, 8), (8, 8)),
        (3, 64, 32, (8, 8, 5), (8, 8, 5)),
        (3, 256, 32, (32, 32, 8), (32, 32, 8)),
        (3, 256, 4, (4, 4, 8), (7, 7, 8)),  # the last axis does not follow `modes`
    ],
)
def test_kept_modes(space_dims, grid, modes, kept, symmetric):
    model = DPOTConfig(size="debug", space_dims=space_dims, grid=grid, modes=modes)
    assert model.kept_modes == kept
    assert model.mode_cut.negative(model.latent_grid) == (0,) * space_dims
    both = model.model_copy(update={"modes_kept": "symmetric"})
    assert both.kept_modes == symmetric
