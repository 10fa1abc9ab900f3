"""What a ViT may be."""

import pytest
from pydantic import ValidationError

from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import count_parameters as of_dpot
from dpot_scale.models.vit.config import ViTConfig
from dpot_scale.models.vit.cost import count_parameters


def test_by_default_it_is_as_large_as_dpot_ti() -> None:
    expected = of_dpot(DPOTConfig(size="Ti")).total
    assert count_parameters(ViTConfig()).total == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"width": 20, "heads": 8}, "Input should be a multiple of heads=8"),
        ({"history": 10, "time_tokens": 4}, "Input should be a divisor of history=10"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ViTConfig.model_validate(values)


def test_a_grid_that_is_no_multiple_of_the_patch_is_padded() -> None:
    model = ViTConfig(grid=(20, 33), patch=8)
    assert model.latent_grid == (3, 5)
    assert model.padded(model.space) == (24, 40)
