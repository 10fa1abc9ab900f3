"""Rollouts of arrays: what is forecast, and what a history must be."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dpot_scale as ds
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.model import FAMILIES, config_class
from dpot_scale.data.channels import Channels, TrainingData
from dpot_scale.errors import ConfigError, DataError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL

CONFIG = DPOTConfig.model_validate(
    {
        "size": "debug",
        "width": 16,
        "depth": 2,
        "heads": 2,
        "out_layer_dim": 8,
        "grid": 16,
        "patch": 4,
        "channels": 4,
        "history": 3,
        "horizon": 2,
    }
)
# A flow around something: its mask is given, and the model has one channel more.
FLOW = Channels(
    names=("u", "p", "mask"),
    scored=(True, True, False),
    mean=(2.0, -1.0, 0.0),
    std=(0.5, 3.0, 1.0),
    frame_interval=0.1,
)
PLAIN = Channels(names=("a", "b"), scored=(True, True), mean=(0, 0), std=(1, 1), frame_interval=1)
STEPS = 5
CONDITIONED = DPOTConfig.model_validate(
    CONFIG.model_dump() | {"conditioning": ["dt", "parameters"], "parameters": ["viscosity"]}
)
RELEASED = Path(__file__).parents[1] / "golden" / "official_format_small.pth"
EARLIER = Path(__file__).parents[1] / "golden" / "formats" / "second" / "finished"


def saved(path: Path, **datasets: Channels) -> Path:
    torch.manual_seed(0)
    data = TrainingData(datasets=datasets) if datasets else None
    save_model(path, CONFIG, DPOT(CONFIG).state_dict(), data)
    return path


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    return saved(tmp_path / "flow.safetensors", flow=FLOW)


@pytest.fixture
def history() -> np.ndarray:
    """(B, T, C, x, y) with a mask of zeros and ones."""
    history = np.random.default_rng(0).normal(size=(2, 3, 3, 16, 16)).astype(np.float32)
    history[:, :, 2] = history[:, :1, 2] > 0
    return history


def expected(path: Path, history: np.ndarray, channels: Channels) -> Tensor:
    """The rollout by hand: scaled, padded with ones, and what is given repeated."""
    network = ds.load_model(path)
    given = len(channels.names)
    mean = torch.tensor(channels.mean).view(-1, 1, 1)
    std = torch.tensor(channels.std).view(-1, 1, 1)
    known = torch.from_numpy(history)
    while known.shape[1] < CONFIG.history + STEPS:
        newest = known[:, -CONFIG.history :]
        ones = torch.ones(*newest.shape[:2], CONFIG.channels - given, *newest.shape[3:])
        with torch.no_grad():
            frames = network(torch.cat([(newest - mean) / std, ones], dim=2)).frames
        frames = frames[:, :, :given] * std + mean
        for channel, scored in enumerate(channels.scored):
            if not scored:
                frames[:, :, channel] = known[:, -1:, channel]
        known = torch.cat([known, frames], dim=1)
    return known[:, CONFIG.history : CONFIG.history + STEPS]


def test_a_rollout_is_in_physical_units_and_repeats_what_is_given(
    flow: Path, history: np.ndarray
) -> None:
    model = ds.load(flow)
    assert (model.channels, model.datasets, model.dataset) == (FLOW.names, ("flow",), "flow")
    frames = model.rollout(history, steps=STEPS)
    assert isinstance(frames, np.ndarray)
    assert (frames.shape, frames.dtype) == ((2, STEPS, 3, 16, 16), np.float32)
    np.testing.assert_allclose(frames, expected(flow, history, FLOW), rtol=1e-5, atol=1e-5)
    assert (frames[:, :, 2] == history[:, -1:, 2]).all()


def test_a_history_without_an_axis_of_windows_is_one(flow: Path, history: np.ndarray) -> None:
    model = ds.load(flow)
    alone = model.rollout(history[1], STEPS)
    assert isinstance(alone, np.ndarray)
    assert alone.shape == (STEPS, 3, 16, 16)
    together = model.rollout(history, STEPS)
    assert isinstance(together, np.ndarray)
    np.testing.assert_allclose(alone, together[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_what_goes_in_comes_out(kind: str, name: str, flow: Path, history: np.ndarray) -> None:
    given: Any = history.astype(name)
    if kind == "torch":
        given = torch.from_numpy(given)
    frames: Any = ds.load(flow).rollout(given, STEPS)
    assert type(frames) is type(given)
    assert str(frames.dtype).endswith(name if name.startswith("float") else "float32")
    again = np.asarray(given).astype(np.float32)
    found = np.asarray(frames, dtype=np.float32)
    np.testing.assert_allclose(found, expected(flow, again, FLOW), rtol=2e-3, atol=2e-3)


def test_an_array_in_any_order_of_memory_is_read(flow: Path, history: np.ndarray) -> None:
    model = ds.load(flow)
    turned = np.ascontiguousarray(history[..., ::-1, :].swapaxes(3, 4)).swapaxes(3, 4)[..., ::-1, :]
    turned.setflags(write=False)
    before = turned.copy()
    np.testing.assert_array_equal(model.rollout(turned, 2), model.rollout(history, 2))
    np.testing.assert_array_equal(turned, before)


@pytest.mark.parametrize("is_batch", [True, False])
def test_channels_by_name_come_back_by_name(
    is_batch: bool, flow: Path, history: np.ndarray
) -> None:
    model = ds.load(flow)
    array = history if is_batch else history[0]
    axis = 2 if is_batch else 1
    given = {name: array.take(FLOW.names.index(name), axis) for name in ("mask", "u", "p")}
    frames = model.rollout(given, STEPS)
    assert isinstance(frames, Mapping)
    assert tuple(frames) == FLOW.names
    whole = model.rollout(array, STEPS)
    assert isinstance(whole, np.ndarray)
    for channel, name in enumerate(FLOW.names):
        np.testing.assert_array_equal(frames[name], whole.take(channel, axis))
    tensors = {name: torch.from_numpy(values) for name, values in given.items()}
    for one, frame in zip(model.stream(tensors, 2), range(2), strict=True):
        assert isinstance(one, Mapping)
        assert isinstance(one["u"], Tensor)
        np.testing.assert_array_equal(one["u"], frames["u"].take(frame, axis - 1))


def test_a_tensor_can_be_differentiated_further(flow: Path, history: np.ndarray) -> None:
    model = ds.load(flow)
    given = torch.from_numpy(history).requires_grad_()
    frames = [model.rollout(given, 2), *model.stream(given, 2)]
    weight = torch.ones((), requires_grad=True)
    for one in frames:
        assert isinstance(one, Tensor)
        (one * weight).sum().backward()
    assert given.grad is None


def test_a_stream_forecasts_no_further_than_it_is_read(
    flow: Path, history: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = DPOT.forward
    monkeypatch.setattr(
        DPOT, "forward", lambda self, frames: calls.append(frames.shape) or forward(self, frames)
    )
    model = ds.load(flow)
    stream = model.stream(history, 10**9)
    assert calls == []
    found = list(islice(stream, STEPS))
    assert calls == [(2, CONFIG.history, CONFIG.channels, 16, 16)] * 3, "two frames for each call"
    assert torch.is_inference_mode_enabled() is False
    np.testing.assert_array_equal(np.stack(found, axis=1), model.rollout(history, STEPS))


def test_bfloat16_is_near_and_gives_single_precision(flow: Path, history: np.ndarray) -> None:
    exact, rough = ds.load(flow).rollout(history, 2), ds.load(flow, torch.bfloat16)
    frames = rough.rollout(history, 2)
    assert isinstance(frames, np.ndarray)
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames, exact, atol=0.1)
    assert not np.array_equal(frames, exact)


def test_weights_that_know_no_channels_take_any_number(tmp_path: Path) -> None:
    path = saved(tmp_path / "unknown.safetensors")
    model = ds.load(path)
    assert (model.channels, model.datasets) == (None, ())
    history = np.random.default_rng(0).normal(size=(1, 3, 2, 16, 16)).astype(np.float32)
    frames = model.rollout(history, STEPS)
    np.testing.assert_allclose(frames, expected(path, history, PLAIN), rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="do not say how their channels are called"):
        model.rollout({"a": history[:, :, 0]}, 1)
    with pytest.raises(DataError, match="do not say what they were trained on"):
        model.for_dataset("flow")


@pytest.mark.parametrize("source", [RELEASED, EARLIER, EARLIER / "model.safetensors"])
def test_released_and_earlier_weights_forecast(source: Path) -> None:
    model = ds.load(source)
    config = model.config
    history = torch.randn(1, config.history, config.channels, *[config.grid] * config.space_dims)
    frames = model.rollout(history, config.horizon)
    with torch.no_grad():
        torch.testing.assert_close(frames, ds.load_model(source)(history).frames)


def test_a_volume_is_forecast_too(tmp_path: Path) -> None:
    config = DPOTConfig.model_validate(
        CONFIG.model_dump() | {"space_dims": 3, "grid": 8, "channels": 2}
    )
    path = tmp_path / "volume.safetensors"
    save_model(path, config, DPOT(config).state_dict())
    history = np.random.default_rng(0).normal(size=(3, 1, 8, 8, 12)).astype(np.float32)
    frames = ds.load(path).rollout(history, 3)
    assert isinstance(frames, np.ndarray)
    assert frames.shape == (3, 1, 8, 8, 12)
    with pytest.raises(DataError, match=r"shape \(T, C, X, Y, Z\) or \(B, T, C, X, Y, Z\)"):
        ds.load(path).rollout(history[0], 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_every_family_is_served(family: str, tmp_path: Path) -> None:
    kind = config_class({"family": family})
    described: dict[str, object] = {"family": family, "grid": 32, "channels": 2, "history": 4}
    if family == "dpot":
        described["size"] = "debug"
    config = kind.model_validate(described)
    network = family_of(config).network(config, KEEP_ALL, "float32").eval()
    path = tmp_path / "model.safetensors"
    save_model(path, config, network.state_dict())
    history = torch.randn(1, 4, 2, 32, 32)
    with torch.no_grad():
        expected = network(history).frames
    torch.testing.assert_close(ds.load(path).rollout(history, config.horizon), expected)


def test_of_several_datasets_one_is_chosen(tmp_path: Path, history: np.ndarray) -> None:
    path = saved(tmp_path / "both.safetensors", flow=FLOW, plain=PLAIN)
    model = ds.load(path)
    assert (model.datasets, model.dataset, model.channels) == (("flow", "plain"), None, None)
    with pytest.raises(DataError, match=r"trained on flow, plain, which .* dataset='flow'"):
        model.rollout(history, 1)
    with pytest.raises(DataError, match=r"not trained on dataset 'plane' \(did you mean 'plain'"):
        ds.load(path, dataset="plane")
    frames = ds.load(path, dataset="flow").rollout(history, STEPS)
    np.testing.assert_allclose(frames, expected(path, history, FLOW), rtol=1e-5, atol=1e-5)
    frames = model.for_dataset("plain").rollout(history[:, :, :2], STEPS)
    both = expected(path, history[:, :, :2], PLAIN)
    np.testing.assert_allclose(frames, both, rtol=1e-5, atol=1e-5)
    assert model.channels is None, "another choice leaves it as it was"


def test_datasets_with_the_same_channels_need_no_choice(tmp_path: Path) -> None:
    later = PLAIN.model_copy(update={"frame_interval": 2.0})
    model = ds.load(saved(tmp_path / "same.safetensors", one=PLAIN, two=later))
    assert model.channels == ("a", "b")
    other = PLAIN.model_copy(update={"names": ("c", "d")})
    model = ds.load(saved(tmp_path / "other.safetensors", one=PLAIN, two=other))
    assert model.channels is None
    model.rollout(np.zeros((3, 1, 16, 16), np.float32), 1)


MASKED = np.ones((3, 16, 16), np.float32)
ZEROS = np.zeros((3, 3, 16, 16), np.float32)


def with_one(value: float, *place: int) -> np.ndarray:
    history = ZEROS.astype(np.float64)
    history[place] = value
    return history


SHAPES = r"shape \(T, C, X, Y\) or \(B, T, C, X, Y\) with T = 3 and C = 3 \(u, p, mask\), got "


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (ZEROS[0], SHAPES + r"\(3, 16, 16\)"),
        (ZEROS[:2], SHAPES + r"\(2, 3, 16, 16\)"),
        (ZEROS[:, :2], SHAPES + r"\(3, 2, 16, 16\)"),
        (np.zeros((3, 4, 16, 16)), SHAPES + r"\(3, 4, 16, 16\)"),
        (np.zeros((0, 3, 3, 16, 16)), SHAPES + r"\(0, 3, 3, 16, 16\)"),
        (np.zeros((1, 1, 3, 3, 16, 16)), SHAPES),
        (np.zeros(()), SHAPES + r"\(\)"),
        (torch.zeros(3, 3, 16), SHAPES + r"\(3, 3, 16\)"),
        (
            with_one(np.nan, 1, 0, 5, 7),
            r"not finite .* first in frame 1, channel u, at the point \(5, 7\)",
        ),
        (with_one(np.inf, 2, 1, 0, 0)[None], "frame 2 of window 0, channel p"),
        (np.ma.masked_equal(with_one(7, 1, 2, 5, 7), 7), "frame 1, channel mask, .* \\(5, 7\\)"),
        (np.ma.masked_equal(with_one(7, 1, 2, 5, 7).astype(int), 7), "frame 1, channel mask"),
        (with_one(1e300, 0, 0, 0, 0), "not finite in single precision"),
        (ZEROS.astype(complex), "real numbers, got complex128"),
        (np.full((3, 3, 16, 16), "1"), "real numbers, got <U1"),
        (torch.zeros(3, 3, 16, 16, dtype=torch.complex64), "real numbers, got torch.complex64"),
        (ZEROS.tolist(), "a NumPy array, a torch tensor or a mapping .* got list"),
        (None, "got NoneType"),
        ({"u": MASKED, "p": MASKED}, "channels u, p, mask; mask is missing"),
        (
            {"u": MASKED, "p": MASKED, "Mask": MASKED},
            r"mask is missing and 'Mask' is none of them \(did you mean 'mask'\?\)",
        ),
        ({}, "u, p, mask are missing"),
        ({"u": MASKED, "p": MASKED[:2], "mask": MASKED}, r"one shape, got u \(3, 16, 16\), p \(2"),
        (dict.fromkeys(FLOW.names, MASKED[0]), r"\(T, X, Y\) or \(B, T, X, Y\) .* got \(16, 16\)"),
        (dict.fromkeys(FLOW.names, MASKED[:2]), r"with T = 3, got \(2, 16, 16\)"),
        ({"u": MASKED, "p": MASKED, "mask": torch.ones(3, 16, 16)}, "all of one kind"),
        ({"u": MASKED, "p": MASKED, "mask": [1]}, "got list"),
    ],
)
def test_what_is_no_history_is_one_sentence(history: Any, said: str, flow: Path) -> None:
    model = ds.load(flow)
    for forecast in (model.rollout, model.stream):
        with pytest.raises(DataError, match=said) as raised:
            forecast(history, 1)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "3", True, None])
def test_steps_are_a_number_of_frames(steps: Any, flow: Path) -> None:
    with pytest.raises(DataError, match=r"steps=.* must be a whole number of frames"):
        ds.load(flow).rollout(ZEROS, steps)
    assert ds.load(flow).rollout(ZEROS, np.int64(2)) is not None


def test_a_precision_or_device_that_is_none_is_one_sentence(flow: Path) -> None:
    with pytest.raises(ConfigError, match=r"torch\.int8 is none of the precisions .*bfloat16"):
        ds.load(flow, torch.int8)
    with pytest.raises(ConfigError, match="device='gpu' cannot be used"):
        ds.load(flow, device="gpu")
    assert ds.load(flow, device="cpu").rollout(ZEROS, 1) is not None
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device='cuda' cannot be used"):
            ds.load(flow, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_tensor_comes_back_to_its_device(flow: Path, history: np.ndarray) -> None:
    model = ds.load(flow)
    frames = {
        device: model.rollout(torch.from_numpy(history).to(device), STEPS)
        for device in ("cpu", "cuda")
    }
    for device, found in frames.items():
        assert isinstance(found, Tensor)
        assert found.device.type == device
        torch.testing.assert_close(found.cpu(), expected(flow, history, FLOW), rtol=1e-3, atol=1e-3)


def test_a_model_is_told_the_time_step_and_the_parameters(tmp_path: Path) -> None:
    network = DPOT(CONDITIONED)
    assert network.conditioning is not None
    torch.nn.init.normal_(network.conditioning.modulation.weight)
    path = tmp_path / "told.safetensors"
    save_model(path, CONDITIONED, network.state_dict(), TrainingData(datasets={"plain": PLAIN}))
    model = ds.load(path)
    history = torch.randn(1, 3, 2, 16, 16)
    padded = torch.cat([history, torch.ones_like(history)], dim=2)
    nan = torch.nan
    for told, conditions in (
        (model, [1.0, nan]),
        (model.told(viscosity=0.01), [1.0, 0.01]),
        (model.told(dt=0.5), [0.5, nan]),
    ):
        with torch.no_grad():
            expected = network(padded, torch.tensor([conditions])).frames[:, :, :2]
        torch.testing.assert_close(told.rollout(history, 2), expected)
    for conditions, said in (
        ({"viscocity": 1.0}, r"not told of 'viscocity' \(did you mean 'viscosity'\?\), but of dt"),
        ({"viscosity": nan}, r"viscosity=nan must be a finite number"),
        ({"dt": "fast"}, r"dt='fast' must be a finite number"),
    ):
        with pytest.raises(DataError, match=said):
            model.told(**conditions)
    assert model.told(dt=0.5).dataset == "plain"
