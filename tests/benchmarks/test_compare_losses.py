"""What benchmarks/compare_losses.py says of two curves."""

import math
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compare_losses.py"
compare = runpy.run_path(str(SCRIPT))["compare"]

CURVE = {1: 0.5, 2: 0.25, 3: math.nan}


def curves(**changes: float) -> dict[str, dict[int, float]]:
    changed = {int(step.removeprefix("step_")): value for step, value in changes.items()}
    return {"train/loss": CURVE | changed, "train/grad_norm": dict(CURVE)}


def test_equal_curves_are_equal_in_every_digit() -> None:
    lines, largest = compare(curves(), curves())
    assert largest == 0
    assert lines == [
        "train/loss: 3 steps, equal in every digit",
        "train/grad_norm: 3 steps, equal in every digit",
    ]


def test_the_last_digit_of_one_value_is_a_difference() -> None:
    lines, largest = compare(curves(), curves(step_2=math.nextafter(0.25, 1)))
    assert 0 < largest < 1e-15
    assert lines[0].startswith(
        "train/loss: 1 of 3 steps differ, first step 2 (0.25 and 0.25000000000000006), at most by "
    )


@pytest.mark.parametrize("change", [{"step_4": 0.1}, {"step_3": 0.1}, {"step_2": math.inf}])
def test_a_step_too_much_or_a_value_that_is_not_finite_differs_beyond_all_tolerance(
    change: dict[str, float],
) -> None:
    assert compare(curves(), curves(**change))[1] == math.inf
    assert compare(curves(**change), curves())[1] == math.inf
