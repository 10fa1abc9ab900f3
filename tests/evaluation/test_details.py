"""All metrics of an evaluation, against numpy on whole trajectories; its memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpot_scale.config.load import load_run
from dpot_scale.config.run import EvaluationConfig, RunConfig
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import DatasetStore, open_store
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.evaluation.details import Details
from dpot_scale.evaluation.evaluator import evaluate
from dpot_scale.evaluation.inputs import Wanted
from dpot_scale.evaluation.pictures import growth_figure, spectra_figure
from dpot_scale.evaluation.scores import METRICS
from dpot_scale.evaluation.tally import FIRST_LEAD, ONE_STEP, ROLLOUT
from dpot_scale.models.forecaster import Forecast

NEAR = 1e-6
GROWTH = 1.02
Frames = NDArray[np.float64]


@pytest.fixture(scope="module")
def config(tiny_yaml: Path) -> RunConfig:
    return load_run(str(tiny_yaml))  # history 4, 16 x 16 points, 2 channels


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


def grow(history: Tensor) -> Forecast:
    """Forecast the last frame, a little larger."""
    return Forecast(GROWTH * history[:, -1:], None)


def stored(folder: Path, trajectories: list[Frames], grid: tuple[int, int]) -> DatasetStore:
    """A dataset of these test trajectories, (T, C, *grid) each."""
    channels = trajectories[0].shape[1]
    info = DatasetInfo(
        name="flow",
        equation="none",
        channels=("u", "v")[:channels],
        scored=(True, True)[:channels],
        spatial_axes=("x", "y"),
        grid=grid,
        domain_length=(2.0, 1.0),
        frame_interval=0.5,
        boundary="periodic",
        origin="generated",
        source="a test",
    )
    with StoreWriter(folder, info) as writer:
        for frames in trajectories:
            writer.append("test", frames[None])
    return open_store(folder, "flow")


def walks(lengths: list[int], grid: tuple[int, int] = (16, 16), channels: int = 2) -> list[Frames]:
    random = np.random.default_rng(0)
    shapes = [(frames, channels, *grid) for frames in lengths]
    return [
        (2.0 + 0.1 * random.normal(size=shape).cumsum(axis=0)).astype(np.float32).astype(np.float64)
        for shape in shapes
    ]


def details_of(
    store: DatasetStore, config: RunConfig, world: World, wanted: Wanted | None = None
) -> Details:
    options = EvaluationConfig(batch=2)
    found = evaluate(
        grow,
        {"flow": store},
        options,
        config.model,
        config.data,
        world,
        wanted=wanted or Wanted(),
    )["flow"].details
    assert found is not None
    return found


def forecasts(frames: Frames, history: int) -> dict[str, tuple[Frames, Frames]]:
    """The rollout and the one-step forecast of the model and of persistence."""
    leads = np.arange(1, len(frames) - history + 1).reshape(-1, 1, 1, 1)
    last, before = frames[history - 1], frames[history - 1 : -1]
    rollout = last * np.float32(GROWTH).astype(float) ** leads
    return {"model": (rollout, GROWTH * before), "persistence": (last * leads**0, before)}


def vrmse(u: Frames, v: Frames) -> Frames:
    """Of each frame and field (L, C)."""
    mean = v.mean((2, 3), keepdims=True)
    variance = ((v - mean) ** 2).mean((2, 3))
    error: Frames = np.sqrt(((u - v) ** 2).mean((2, 3)) / (variance + 1e-7))
    return error


def rel_l2(u: Frames, v: Frames) -> Frames:
    """Of each field (C,), over frames and space together."""
    axes = (0, 2, 3)
    error: Frames = np.sqrt(((u - v) ** 2).sum(axes)) / (np.sqrt((v**2).sum(axes)) + 1e-8)
    return error


def test_means_over_lead_times_windows_fields_and_trajectories(
    tmp_path: Path, config: RunConfig, world: World
) -> None:
    """Trajectories of 40 and 12 frames: the second one ends in the first window."""
    tests, history = walks([40, 12, 40]), config.model.history
    totals = details_of(stored(tmp_path, tests, (16, 16)), config, world).totals
    assert list(totals.quantities.windows) == ["6:12", "13:30"]
    windows = {"6:12": slice(5, 12), "13:30": slice(12, 30)}
    assert totals.quantities.windows == windows
    for name in ("model", "persistence"):
        each = [(forecasts(one, history)[name], one[history:]) for one in tests]
        of_frames = [vrmse(rollout, truth) for (rollout, _), truth in each]
        one_step = [vrmse(forecast, truth) for (_, forecast), truth in each]
        found = totals.of("vrmse", name).numpy()
        assert found[ROLLOUT] == pytest.approx(np.mean([e.mean() for e in of_frames]), rel=NEAR)
        assert found[ONE_STEP] == pytest.approx(np.mean([e.mean() for e in one_step]), rel=NEAR)
        for lead in range(36):
            there = [e[lead].mean() for e in of_frames if len(e) > lead]
            assert found[FIRST_LEAD + lead] == pytest.approx(np.mean(there), rel=NEAR), lead
        for i, window in enumerate(windows.values()):
            there = [e[window].mean() for e in of_frames if len(e[window])]
            assert found[FIRST_LEAD + 36 + i] == pytest.approx(np.mean(there), rel=NEAR)
        for field in range(2):
            found = totals.of("vrmse", name, 1 + field).numpy()
            expected = np.mean([e[:, field].mean() for e in of_frames])
            assert found[ROLLOUT] == pytest.approx(expected, rel=NEAR)
        errors = [[rel_l2(r[w], v[w]) for (r, _), v in each if len(v[w])] for w in windows.values()]
        found = totals.of("rel_l2", name).numpy()
        whole = np.mean([rel_l2(rollout, truth).mean() for (rollout, _), truth in each])
        assert found[ROLLOUT] == pytest.approx(whole, rel=NEAR)
        expected = [np.mean([e.mean() for e in of_window]) for of_window in errors]
        assert found[-2:] == pytest.approx(expected, rel=NEAR)
        largest = max(np.abs(rollout - truth).max() for (rollout, _), truth in each)
        assert totals.of("max_error", name)[ROLLOUT] == pytest.approx(largest, rel=NEAR)
        late = max(np.abs(r - v)[12:30].max() for (r, _), v in each if len(v) > 12)
        assert totals.of("max_error", name)[-1] == pytest.approx(late, rel=NEAR)


def test_a_short_rollout_has_the_windows_that_it_reaches(
    tmp_path: Path, config: RunConfig, world: World
) -> None:
    totals = details_of(stored(tmp_path, walks([13]), (16, 16)), config, world).totals
    assert totals.quantities.windows == {"6:9": slice(5, 9)}
    expected = totals.of("nrmse", "model")[FIRST_LEAD:][5:9].mean()
    assert totals.of("nrmse", "model")[-1] == pytest.approx(expected.item(), rel=1e-12)


def test_zero_and_constant_fields_are_left_out_and_counted(
    tmp_path: Path, config: RunConfig, world: World
) -> None:
    (frames,), history = walks([10]), config.model.history
    frames[:7, 1] = 0.0  # v is at rest until the third lead time
    frames[7, 1] = 3.0  # and then the same everywhere
    totals = details_of(stored(tmp_path, [frames], (16, 16)), config, world).totals
    assert (totals.zero_targets, totals.constant_targets) == (3, 1)
    rollout, truth = forecasts(frames, history)["model"][0], frames[history:]
    of_frames = vrmse(rollout, truth)
    expected = [of_frames[lead, : 1 if lead < 4 else 2].mean() for lead in range(6)]
    found = totals.of("vrmse", "model")[FIRST_LEAD : FIRST_LEAD + 6]
    assert found.tolist() == pytest.approx(expected, rel=NEAR)
    assert torch.isnan(totals.of("nrmse", "model", 2)[FIRST_LEAD : FIRST_LEAD + 3]).all()
    assert totals.of("nrmse", "model", 2)[FIRST_LEAD + 3] == pytest.approx(1.0), "3 where 0 is said"
    assert torch.isfinite(totals.of("nrmse", "model")).all()


def test_a_dataset_at_rest_has_no_score(tmp_path: Path, config: RunConfig, world: World) -> None:
    store = stored(tmp_path, [np.zeros((8, 1, 16, 16))], (16, 16))
    totals = details_of(store, config, world).totals
    for metric in METRICS:
        assert torch.isnan(totals.of(metric, "model")).all(), metric
    assert totals.zero_targets == 4


def test_ranks_share_the_trajectories(tmp_path: Path, config: RunConfig, world: World) -> None:
    """Each of two pretended ranks has its part of the sums and of the errors per trajectory."""
    store = stored(tmp_path, walks([9, 9, 9, 9, 9]), (16, 16))
    whole = details_of(store, config, world)
    parts = [details_of(store, config, replace(world, rank=r, world_size=2)) for r in range(2)]
    for metric in METRICS:
        means = [part.totals.of(metric, "model") for part in parts]
        together = means[0].maximum(means[1]) if metric == "max_error" else means[0] + means[1]
        torch.testing.assert_close(together, whole.totals.of(metric, "model"), rtol=1e-12, atol=0)
    np.testing.assert_allclose(sum(part.errors_NL for part in parts), whole.errors_NL, rtol=1e-12)
    spectra = sum(part.forecast_spectra_SCK for part in parts)
    np.testing.assert_allclose(spectra, whole.forecast_spectra_SCK, rtol=1e-12)


def test_a_forecast_that_goes_astray_is_not_left_out(
    tmp_path: Path, config: RunConfig, world: World
) -> None:
    tests = walks([9, 9, 9])
    tests[1] *= 1e3

    def astray(history: Tensor) -> Forecast:
        last = history[:, -1:]
        return Forecast(last.where(last.abs() < 100, torch.nan), None)

    store = stored(tmp_path, tests, (16, 16))
    found = evaluate(
        astray,
        {"flow": store},
        EvaluationConfig(batch=2),
        config.model,
        config.data,
        world,
        wanted=Wanted(moving=True),
    )["flow"].details
    assert found is not None
    assert np.isposinf(found.errors_NL[1]).all()
    assert np.isfinite(found.errors_NL[[0, 2]]).all()
    assert torch.isnan(found.totals.of("vrmse", "model")[ROLLOUT])
    assert found.totals.of("max_error", "model")[ROLLOUT] == torch.inf
    for figure in (growth_figure({"flow": {"one": found}}), spectra_figure("f", {"one": found})):
        figure.savefig(tmp_path / "figure.png")


def test_twice_the_same(tmp_path: Path, config: RunConfig, world: World) -> None:
    store = stored(tmp_path, walks([9, 7]), (16, 16))
    one, other = (details_of(store, config, world) for _ in range(2))
    assert torch.equal(one.totals.means, other.totals.means)
    assert one.errors_NL.tobytes() == other.errors_NL.tobytes()


def test_what_is_shown(tmp_path: Path, config: RunConfig, world: World) -> None:
    tests, history = walks([100, 100]), config.model.history
    store = stored(tmp_path, tests, (16, 16))
    wanted = Wanted(leads=(10, 1, 400), moving=True)
    found = details_of(store, config, world, wanted)
    assert found.example.leads == found.spectrum_leads == (1, 10)
    expected = tests[0][[history, history + 9]]
    np.testing.assert_allclose(found.example.truth_LCs, expected, rtol=NEAR)
    assert found.moving is not None
    assert len(found.moving.leads) == 60
    assert found.moving.leads[::59] == (1, 96)
    np.testing.assert_array_equal(found.moving.forecast_LCs[0], found.example.forecast_LCs[0])
    modes = [np.abs(np.fft.fft2(one[history + 9, 1]) / 256) ** 2 for one in tests]
    mean = np.mean([energy[0, 0] for energy in modes])
    assert found.truth_spectra_SCK[1, 1, 0] == pytest.approx(mean, rel=NEAR)
    assert np.isfinite(found.errors_NL).all()


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@pytest.mark.parametrize("grid", [(64, 64), (48, 48)])
def test_memory_does_not_grow_with_the_rollout(
    grid: tuple[int, int], tmp_path: Path, config: RunConfig, world: World
) -> None:
    """200 frames of a trajectory that is held at once would take 25 MiB, five times."""
    model = config.model.model_copy(update={"grid": 64})
    large = config.model_copy(update={"model": model})
    short, long = walks([20], grid), walks([200], grid)
    peaks = {}
    for name, trajectories in (("warm", short * 8), ("short", short * 8), ("long", long * 8)):
        store = stored(tmp_path / name, trajectories, grid)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pytest.skip("may not reset the peak of its memory")
        before = peak_mib()
        details_of(store, large, world, Wanted(moving=True))
        peaks[name] = peak_mib() - before
    # The shown and moving frames are at most 60, so more than those of the short one.
    assert peaks["long"] < peaks["short"] + 16, peaks


@pytest.mark.parametrize("grid", [(16, 16), (12, 20)])
def test_forecasts_that_begin_later_are_those_of_what_is_left(
    grid: tuple[int, int], tmp_path: Path, config: RunConfig, world: World
) -> None:
    tests = walks([12, 9], grid)
    later = details_of(stored(tmp_path / "all", tests, grid), config, world, Wanted(known=6))
    cut = [frames[6 - config.model.history :] for frames in tests]
    expected = details_of(stored(tmp_path / "cut", cut, grid), config, world)
    for metric in METRICS:
        for forecast in ("model", "persistence"):
            found = later.totals.of(metric, forecast)
            torch.testing.assert_close(found, expected.totals.of(metric, forecast), rtol=0, atol=0)
    assert later.times_L.tolist() == pytest.approx(expected.times_L.tolist())
    assert np.array_equal(later.example.truth_LCs, expected.example.truth_LCs)
