"""The forms against their equations, written out."""

import numpy as np
import pytest

from dpot_scale.scaling.report.laws.forms import Form
from dpot_scale.scaling.report.laws.points import Points

AT = Points.at([2e5, 1e6, 8e6], [4e3, 1.6e4, 6.4e4], [4e3, 8e3, 8e3])
FORMS = [
    Form(floor=floor, size=size, data=data, repeats=repeats, size_unit=1e6, windows_unit=1e4)
    for floor in (False, True)
    for size, data in ((True, False), (False, True), (True, True))
    for repeats in {False, data}
]


def some(form: Form) -> np.ndarray:
    """Return two parameter vectors of a form."""
    first = np.random.default_rng(0).uniform(0.2, 0.9, (2, form.count))
    first[:, : form.floor] *= 0.1
    return first


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_derivatives_are_those_of_the_prediction(form: Form) -> None:
    theta = some(form)
    _, change = form.linearize(theta, AT)
    for k in range(form.count):
        step = np.zeros(form.count)
        step[k] = 1e-6
        difference = form.linearize(theta + step, AT)[0] - form.linearize(theta - step, AT)[0]
        assert change[..., k] == pytest.approx(difference / 2e-6, abs=1e-7)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_named_parameters_are_those_of_the_equation(form: Form) -> None:
    theta = some(form)
    found = {name: values[:, None] for name, values in form.named(theta).items()}
    passes = AT.windows / AT.distinct - 1
    worth = found.get("R", np.array(np.inf))
    effective = AT.windows
    if form.repeats:
        effective = AT.distinct + AT.distinct * worth * (1 - np.exp(-passes / worth))
    expected = found.get("E", 0.0)
    if form.size:
        expected = expected + found["A"] * AT.sizes ** -found["a"]
    if form.data:
        expected = expected + found["B"] * effective ** -found["b"]
    assert form.predict(theta, AT) == pytest.approx(expected)


def test_a_floor_that_no_error_could_show_is_zero() -> None:
    form = Form(floor=True)
    theta = np.array([[1e-5, 0.0, 0.3], [0.1, 0.0, 0.3]])
    assert form.named(theta)["E"] == pytest.approx([0.0, 0.1])
