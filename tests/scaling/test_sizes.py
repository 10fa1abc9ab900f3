"""The widths that give models of a wanted size."""

import pytest

from dpot_scale.config.model import FAMILIES
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.sizes import (
    TOLERANCE,
    Measure,
    geometric,
    label_of_size,
    matching_model,
    measured,
    model_from,
    of_parameters,
)

BELOW = {"family": "dpot", "size": "debug", "grid": 64, "channels": 2}


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ([1.0, 4.0], [1, 4]),
        ([1.0, "...", 8.0], [1, 2, 4, 8]),
        ([1.0, 3.0, "...", 81.0], [1, 3, 9, 27, 81]),
        ([1.0, "...", 2.0], [1, 2]),
        ([8.0, "...", 1.0], [8, 4, 2, 1]),
    ],
)
def test_dots_stand_for_sizes_at_equal_ratios(given: list[float | str], sizes: list[float]) -> None:
    assert geometric(given) == pytest.approx(sizes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [64, 128, 512])
@pytest.mark.parametrize("match", ["flops", "parameters"])
def test_every_family_has_a_width_that_matches(family: str, width: int, match: Measure) -> None:
    reference = model_from({**BELOW, "width": width})
    shape = {"grid": 64, "channels": 2}
    model = matching_model(reference, {"family": family, **shape}, match)
    assert model.family == family
    assert measured(model, match) == pytest.approx(measured(reference, match), rel=0.1)


@pytest.mark.parametrize("parameters", [1e5, 2e5, 1e6, 1e7])
def test_a_model_has_nearly_the_wanted_parameters(parameters: float) -> None:
    model = of_parameters(BELOW, parameters)
    off = measured(model, "parameters") / parameters - 1
    assert abs(off) < TOLERANCE
    width = model.own_width()
    assert width is not None
    for other in (width - 8, width + 8):
        near = measured(model_from({**BELOW, "width": other}), "parameters") / parameters - 1
        assert abs(near) > 0.9 * abs(off), "no width comes nearer"


def test_every_width_that_is_found_suits_the_family() -> None:
    model = of_parameters({**BELOW, "heads": 12, "width": 24}, 1e6)
    assert model.own_width() is not None
    assert model.own_width() % 24 == 0  # type: ignore[operator]


def test_what_no_width_gives_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"no width of the dpot comes near 1e\+03 parameters"):
        of_parameters(BELOW, 1000)


def test_the_same_family_matches_itself() -> None:
    reference = model_from({**BELOW, "width": 96})
    assert matching_model(reference, BELOW, "flops") is reference


def test_sizes_are_for_people() -> None:
    assert [label_of_size(n) for n in (200e3, 1.54e6, 1e9, 12)] == ["200k", "1.54M", "1G", "12"]
