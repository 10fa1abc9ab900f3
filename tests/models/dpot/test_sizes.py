import pytest

from dpot_scale.config.model import ModelConfig
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.sizes import architecture


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (ModelConfig(width=512, heads=3), "model.heads=3 does not divide model.width=512"),
        (ModelConfig(grid=100, patch=8), "model.patch=8 does not divide model.grid=100"),
        (ModelConfig(width=12, heads=4), "model.width=12 is not a multiple of 8"),
    ],
)
def test_dimensions_that_do_not_divide_are_refused(config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        architecture(config)


def test_a_dimension_set_apart_replaces_that_of_the_size():
    arch = architecture(ModelConfig(size="L", depth=3, grid=64))
    assert (arch.width, arch.depth, arch.heads, arch.latent_grid) == (1536, 3, 16, 8)


@pytest.mark.parametrize(
    ("space_dims", "grid", "modes", "kept"),
    [
        (2, 128, 32, (16, 9)),  # the published models keep everything
        (2, 128, 5, (5, 5)),
        (3, 64, 32, (8, 8, 5)),
        (3, 256, 32, (32, 32, 8)),
        (3, 256, 4, (4, 4, 8)),  # the last axis does not follow `modes`
    ],
)
def test_kept_modes(space_dims, grid, modes, kept):
    config = ModelConfig(size="debug", space_dims=space_dims, grid=grid, modes=modes)
    assert architecture(config).kept_modes == kept
