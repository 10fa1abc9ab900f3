"""Each metric, against its formula written out with numpy for one frame and field at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpot_scale.evaluation.metrics import frame_errors, is_constant, shells
from dpot_scale.evaluation.scores import METRICS, REL_L2

NEAR = 1e-6
SPACES = [(32, 32), (30, 21), (7, 40), (12, 10, 9)]

Field = NDArray[np.float64]


def fields(space: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Forecast and truth (2, 3, 2, *space) in single precision, of unlike means and sizes."""
    random = np.random.default_rng(0)
    truth = 3.0 + random.normal(size=(2, 3, 2, *space)).cumsum(axis=-1)
    truth[:, :, 1] *= 1e-3
    forecast = truth + 0.1 * np.abs(truth) * random.normal(size=truth.shape)
    return torch.from_numpy(forecast).float(), torch.from_numpy(truth).float()


def vrmse(u: Field, v: Field) -> float:
    """Ohana et al.: (<|u - v|^2> / (<|v - <v>|^2> + eps))^(1/2), eps = 1e-7."""
    return float((np.mean((u - v) ** 2) / (np.mean((v - v.mean()) ** 2) + 1e-7)) ** 0.5)


def nrmse(u: Field, v: Field) -> float:
    """Takamoto et al.: ||u - v|| / ||v||."""
    return float(np.linalg.norm(u - v) / np.linalg.norm(v))


def banded(u: Field, v: Field) -> dict[str, float]:
    """The energy of the error at every wave vector, one after the other."""
    modes = np.abs(np.fft.fftn(u - v) / u.size) ** 2
    sums = dict.fromkeys(("low", "mid", "high"), 0.0)
    for index in itertools.product(*map(range, u.shape)):
        # The upper half of the indices are negative frequencies.
        cycles = [min(i, n - i) for i, n in zip(index, u.shape, strict=True)]
        length = math.sqrt(sum(k * k for k in cycles))
        sums["low" if length < 4 else "mid" if length < 12 else "high"] += modes[index]
    return {name: math.sqrt(total / np.mean(v**2)) for name, total in sums.items()}


@pytest.mark.parametrize("space", SPACES)
def test_a_metric_is_its_formula(space: tuple[int, ...]) -> None:
    forecast, truth = fields(space)
    found = frame_errors(forecast, truth)
    assert [REL_L2, *found] == list(METRICS)
    for at in itertools.product(range(2), range(3), range(2)):
        u, v = forecast[at].double().numpy(), truth[at].double().numpy()
        expected = {"vrmse": vrmse(u, v), "nrmse": nrmse(u, v), "max_error": np.abs(u - v).max()}
        expected |= {f"spectral_{name}": error for name, error in banded(u, v).items()}
        assert {m: found[m][at].item() for m in expected} == pytest.approx(expected, rel=NEAR)


def test_the_bands_make_up_the_whole_error() -> None:
    for space in SPACES:
        found = frame_errors(*fields(space))
        squares = sum(found[f"spectral_{band}"] ** 2 for band in ("low", "mid", "high"))
        torch.testing.assert_close(squares, found["nrmse"] ** 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("cycles", "band"), [(1, "low"), (3, "low"), (4, "mid"), (12, "high")])
def test_a_wave_is_in_its_band(cycles: int, band: str) -> None:
    wave = torch.sin(2 * torch.pi * cycles * torch.arange(64) / 64).expand(1, 1, 1, 64, 64)
    truth = torch.ones(1, 1, 1, 64, 64)
    found = {name: float(error) for name, error in frame_errors(truth + wave, truth).items()}
    for name in ("low", "mid", "high"):
        expected = 0.5**0.5 if name == band else 0.0
        assert found[f"spectral_{name}"] == pytest.approx(expected, abs=1e-6), name


def test_the_mean_as_a_forecast_has_the_vrmse_of_one() -> None:
    truth = fields((32, 32))[1]
    mean = truth.mean((3, 4), keepdim=True).expand_as(truth)
    found = frame_errors(mean, truth)["vrmse"][:, :, 0]
    assert found.flatten().tolist() == pytest.approx([1.0] * 6, rel=1e-5)


def test_points_inside_obstacles_do_not_count() -> None:
    forecast, truth = fields((16, 12))
    inside = torch.from_numpy(np.random.default_rng(1).random((2, 16, 12)) > 0.3)
    cut = inside[:, None, None]
    found = frame_errors(forecast * cut, truth * cut, inside)
    for at in itertools.product(range(2), range(3), range(2)):
        there = inside[at[0]].numpy()
        u, v = forecast[at].double().numpy()[there], truth[at].double().numpy()[there]
        assert found["vrmse"][at].item() == pytest.approx(vrmse(u, v), rel=NEAR)
        assert found["nrmse"][at].item() == pytest.approx(nrmse(u, v), rel=NEAR)


def test_a_forecast_that_went_astray_has_an_infinite_largest_error() -> None:
    forecast, truth = fields((8, 8))
    forecast[0, 0, 0, 0, 0] = torch.nan
    found = frame_errors(forecast, truth)
    assert found["max_error"][0, 0, 0] == torch.inf
    assert torch.isfinite(found["max_error"].flatten()[1:]).all()


def test_a_field_without_variation_is_found() -> None:
    truth = torch.full((1, 2, 2, 3, 5), 0.1)
    truth[0, 1, 1, 2, 2] = 7.0
    assert is_constant(truth).tolist() == [[[True, True], [True, False]]]
    inside = torch.ones(1, 3, 5, dtype=torch.bool)
    inside[0, 2, 2] = False
    assert is_constant(truth * inside, inside).all()


@pytest.mark.parametrize("space", SPACES)
def test_a_spectrum_has_the_energy_of_each_shell(space: tuple[int, ...]) -> None:
    frames = fields(space)[1]
    found = shells(frames)
    assert found.shape == (2, 3, 2, min(space) // 2 + 1)
    modes = np.abs(np.fft.fftn(frames[1, 2, 0].double().numpy()) / math.prod(space)) ** 2
    expected = np.zeros(found.shape[-1])
    for index in itertools.product(*map(range, space)):
        cycles = [min(i, n - i) for i, n in zip(index, space, strict=True)]
        shell = round(math.sqrt(sum(k * k for k in cycles)))
        if shell < len(expected):
            expected[shell] += modes[index]
    np.testing.assert_allclose(found[1, 2, 0].numpy(), expected, rtol=NEAR)
