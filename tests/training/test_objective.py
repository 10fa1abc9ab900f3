"""The loss, against numbers worked out by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dpot_scale.config.run import ObjectiveConfig
from dpot_scale.data.stream.assembly import Batch, Scale
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.forecaster import Forecast
from dpot_scale.training.noise import Noise
from dpot_scale.training.objective import inject_noise, training_loss, zero_targets

HISTORY = 2
NOISE = Noise(0, torch.device("cpu"))


def batch_of(
    frames: Tensor,
    scored: Sequence[bool] | None = None,
    *,
    scale: Scale | None = None,
    counted: Tensor | None = None,
    coefficients: Sequence[bool] | None = None,
    positions: Sequence[int] = (),
) -> Batch:
    windows, _, channels = frames.shape[:3]
    return Batch(
        frames_BTCxy=frames,
        scored_BC=torch.tensor([scored or [True] * channels] * windows),
        scale=scale,
        counted_Bxy=counted,
        coefficient_BC=None if coefficients is None else torch.tensor([coefficients] * windows),
        positions=tuple(positions or range(windows)),
    )


def noisy(frames: Tensor, noise: float, *positions: int, **options: str) -> Tensor:
    config = ObjectiveConfig.model_validate({"noise": noise, **options})
    return inject_noise(batch_of(frames, positions=positions), frames, config, NOISE)


class RepeatLast:
    """Predicts the last frame, `horizon` times, and keeps what it was shown."""

    def __init__(self, horizon: int = 1, factor: float = 1.0) -> None:
        self.horizon = horizon
        self.factor = factor
        self.seen: list[Tensor] = []

    def __call__(self, frames: Tensor) -> Forecast:
        self.seen.append(frames)
        last = self.factor * frames[:, -1:]
        return Forecast(frames=last.repeat_interleave(self.horizon, 1), logits=torch.empty(0))


def test_a_field_that_is_zero_everywhere_is_left_out_of_the_loss() -> None:
    """A fluid at rest, with a forecast of 1: divided by 1e-8, its error was some billions."""
    frames = torch.ones(3, HISTORY + 1, 2, 4, 4)
    frames[:, HISTORY] = 2.0
    frames[0, HISTORY, 0] = 0.0  # one of two fields
    frames[1, HISTORY] = 0.0  # both: this window adds nothing
    frames.requires_grad_()
    config = ObjectiveConfig(noise=0)
    loss = training_loss(RepeatLast(), batch_of(frames), config, HISTORY, NOISE)
    assert loss.item() == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert zero_targets(batch_of(frames), config, HISTORY) == 3
    (gradient,) = torch.autograd.grad(loss, frames)
    assert bool(gradient.isfinite().all())
    assert float(gradient[0, :, 0].abs().max()) == float(gradient[1].abs().max()) == 0


def test_a_zero_target_does_not_hide_numbers_that_are_not_finite() -> None:
    frames = torch.full((1, HISTORY + 1, 1, 4, 4), torch.nan)
    config = ObjectiveConfig(noise=0)
    assert training_loss(RepeatLast(), batch_of(frames), config, HISTORY, NOISE).isnan()


def test_a_field_that_is_zero_outside_obstacles_is_left_out() -> None:
    frames = torch.ones(1, HISTORY + 1, 2, 4, 4)
    counted = torch.ones(1, 4, 4, dtype=torch.bool)
    counted[:, 0] = False
    frames[:, HISTORY, 0, 1:] = 0.0
    frames[:, HISTORY, 1] = 2.0
    config = ObjectiveConfig(noise=0)
    batch = batch_of(frames, counted=counted)
    loss = training_loss(RepeatLast(), batch, config, HISTORY, NOISE)
    assert loss.item() == pytest.approx(1 / 2)
    assert zero_targets(batch, config, HISTORY) == 1


def test_zero_targets_are_counted_at_every_forward() -> None:
    frames = torch.ones(1, HISTORY + 2, 2, 4, 4)
    assert zero_targets(batch_of(frames), ObjectiveConfig(unroll=2), HISTORY) == 0
    frames[:, HISTORY + 1, 1] = 0.0  # of the two targets together it is not zero everywhere
    assert zero_targets(batch_of(frames), ObjectiveConfig(unroll=2), HISTORY) == 1
    assert zero_targets(batch_of(frames), ObjectiveConfig(), HISTORY) == 0


@pytest.mark.parametrize("space", [(32, 32), (8, 8, 8)])
def test_noise_has_the_size_of_the_norm_of_its_field(space: tuple[int, ...]) -> None:
    frames = torch.rand(2, 4, 2, *space)
    frames[:, :, 1] *= 100
    noise = noisy(frames, 0.01, 0, 1) - frames
    for window in range(2):
        for field in range(2):
            expected = 0.01 * frames[window, :, field].norm().item()
            assert noise[window, :, field].std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("points", [16, 64])
def test_noise_in_standard_deviations_does_not_grow_with_the_grid(points: int) -> None:
    frames = 50 + torch.rand(1, 4, 2, points, points)  # a large mean is no reason for more noise
    noise = noisy(frames, 0.1, 0, noise_unit="std") - frames
    expected = 0.1 * frames[0, :, 0].std().item()
    assert noise[0, :, 0].std().item() == pytest.approx(expected, rel=0.1)


def test_noise_in_standard_deviations_leaves_masks_alone() -> None:
    frames = torch.rand(1, 4, 2, 8, 8)
    config = ObjectiveConfig(noise=0.1, noise_unit="std")
    found = inject_noise(batch_of(frames, [True, False]), frames, config, NOISE)
    assert torch.equal(found[:, :, 1], frames[:, :, 1])
    assert not torch.equal(found[:, :, 0], frames[:, :, 0])


@pytest.mark.parametrize("unit", ["norm", "std"])
def test_coefficients_are_not_perturbed(unit: str) -> None:
    frames = torch.rand(1, 4, 3, 8, 8)
    config = ObjectiveConfig.model_validate({"noise": 0.1, "noise_unit": unit})
    batch = batch_of(frames, [True, False, True], coefficients=[False, True, False])
    found = inject_noise(batch, frames, config, NOISE)
    assert torch.equal(found[:, :, 1], frames[:, :, 1])
    without = inject_noise(batch_of(frames, [True, False, True]), frames, config, NOISE)
    assert torch.equal(found[:, :, ::2], without[:, :, ::2]), "fields have the noise of before"


@pytest.mark.parametrize("supervise_padding", [True, False])
def test_coefficients_are_never_forecast(supervise_padding: bool) -> None:
    frames = torch.ones(1, HISTORY + 1, 2, 4, 4)
    frames[:, :, 1] = 6e5
    config = ObjectiveConfig(noise=0, supervise_padding=supervise_padding)
    batch = batch_of(frames, [True, False], coefficients=[False, True])
    loss = training_loss(RepeatLast(factor=3.0), batch, config, HISTORY, NOISE)
    assert loss.item() == pytest.approx(2)


def test_no_noise_changes_nothing_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.rand(1, 2, 1, 4, 4)
    monkeypatch.setattr(Noise, "draw", None)
    config = ObjectiveConfig(noise=0)
    assert torch.equal(inject_noise(batch_of(frames), frames, config, NOISE), frames)


def test_the_noise_of_a_window_does_not_depend_on_its_batch() -> None:
    frames = torch.rand(3, 2, 2, 4, 4)
    together = noisy(frames, 0.1, 5, 6, 7)
    alone = noisy(frames[1:2], 0.1, 6)
    assert torch.equal(together[1:2], alone)


def test_a_forecast_that_is_right_costs_nothing() -> None:
    frames = torch.rand(2, 1, 1, 4, 4).expand(-1, HISTORY + 1, -1, -1, -1)
    loss = training_loss(
        RepeatLast(), batch_of(frames, [True]), ObjectiveConfig(noise=0), HISTORY, NOISE
    )
    assert loss.item() == 0


def test_the_loss_is_the_mean_over_unrolled_forwards() -> None:
    """Constant truth, doubled by each forward: relative errors 1, then 3."""
    frames = torch.ones(1, HISTORY + 2, 1, 4, 4)
    model = RepeatLast(factor=2.0)
    config = ObjectiveConfig(noise=0, unroll=2)
    loss = training_loss(model, batch_of(frames, [True]), config, HISTORY, NOISE)
    assert loss.item() == pytest.approx((1 + 3) / 2)
    assert model.seen[1][0, :, 0, 0, 0].tolist() == [1.0, 2.0], "the forecast is fed back"


def test_each_forward_is_compared_with_its_own_frames() -> None:
    frames = torch.arange(1.0, HISTORY + 5).view(1, -1, 1, 1, 1).expand(-1, -1, -1, 2, 2)
    config = ObjectiveConfig(noise=0, unroll=2)
    batch = batch_of(frames, [True])
    loss = training_loss(RepeatLast(horizon=2), batch, config, HISTORY, NOISE)
    # Forecast 2 of 3, 4, then 2 of 5, 6.
    first, second = (1 + 4) ** 0.5 / 5, (9 + 16) ** 0.5 / 61**0.5
    assert loss.item() == pytest.approx((first + second) / 2)


def test_noise_is_drawn_anew_at_every_forward() -> None:
    frames = torch.ones(1, HISTORY + 2, 1, 4, 4)
    model = RepeatLast()
    config = ObjectiveConfig(noise=0.1, unroll=2)
    training_loss(model, batch_of(frames, [True]), config, HISTORY, NOISE)
    first, second = model.seen
    assert not torch.equal(first[:, 1] - 1, second[:, 0] - 1)
    assert torch.equal(frames, torch.ones_like(frames)), "targets stay clean"


@pytest.mark.parametrize(("supervised", "expected"), [(False, 1.0), (True, 0.5)])
def test_padding_is_supervised_only_where_asked(supervised: bool, expected: float) -> None:
    """The real field is forecast with an error of 1, the padding exactly."""
    frames = torch.ones(1, HISTORY + 1, 2, 4, 4)
    frames[:, HISTORY, 0] = -1.0
    frames[:, :HISTORY, 0] = 0.0
    config = ObjectiveConfig(noise=0, supervise_padding=supervised)
    batch = batch_of(frames, [True, False])
    loss = training_loss(RepeatLast(), batch, config, HISTORY, NOISE)
    assert loss.item() == pytest.approx(expected)


class Halve(RepeatLast):
    """Predicts half of the last frame, in whatever units it sees."""

    def __init__(self) -> None:
        super().__init__(factor=0.5)


def scale_of(mean: Sequence[float], std: Sequence[float]) -> Scale:
    return Scale(torch.tensor([mean]), torch.tensor([std]))


def test_the_loss_is_in_physical_units() -> None:
    """A forecast that is right costs nothing, and one that is wrong what it does without scale."""
    frames = torch.full((1, HISTORY + 1, 1, 4, 4), 7.0)
    config = ObjectiveConfig(noise=0)
    for model, expected in ((RepeatLast(), 0.0), (Halve(), 2 / 7)):
        batch = batch_of(frames, scale=scale_of([3.0], [2.0]))
        loss = training_loss(model, batch, config, HISTORY, NOISE)
        assert loss.item() == pytest.approx(expected)


def test_points_inside_obstacles_count_in_no_norm() -> None:
    frames = torch.ones(1, HISTORY + 1, 1, 4, 4)
    frames[:, HISTORY] = 2.0
    frames[:, HISTORY, :, 0] = 100.0  # inside
    counted = torch.ones(1, 4, 4, dtype=torch.bool)
    counted[:, 0] = False
    config = ObjectiveConfig(noise=0)
    batch = batch_of(frames, counted=counted)
    loss = training_loss(RepeatLast(), batch, config, HISTORY, NOISE)
    assert loss.item() == pytest.approx(1 / 2)


def test_a_mask_is_not_forecast_but_stays_in_the_unrolled_history() -> None:
    frames = torch.ones(1, HISTORY + 2, 2, 4, 4)
    model = Halve()
    config = ObjectiveConfig(noise=0, unroll=2)
    training_loss(model, batch_of(frames, [True, False]), config, HISTORY, NOISE)
    assert model.seen[1][0, -1, :, 0, 0].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("options", [{}, {"supervise_padding": True}, {"noise": 0.1}])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_fresh_residual_learns_beside_fields_that_do_not_change(
    normalize: bool, options: dict[str, object]
) -> None:
    """A window in which nothing moves is forecast exactly: an error of zero has a gradient."""
    torch.manual_seed(0)
    model = DPOT(
        DPOTConfig.model_validate(
            {"size": "debug", "width": 16, "depth": 1, "heads": 1, "grid": 8, "patch": 4}
            | {"channels": 3, "history": HISTORY, "target": "residual", "normalize": normalize}
        )
    )
    growth = 1.0 + torch.arange(HISTORY + 2.0).view(-1, 1, 1, 1)
    frames = growth * torch.randn(3, 1, 3, 8, 8)
    frames[:, :, 2] = 1.0  # padding
    frames[0] = frames[0, :1].clone()  # steady
    frames[1, :, 1] = 4.0
    counted = torch.ones(3, 8, 8, dtype=torch.bool)
    counted[:, 2:4, 2:4] = False
    scale = Scale(torch.zeros(3, 3), torch.ones(3, 3))
    batch = batch_of(frames, [True, True, False], scale=scale, counted=counted)
    config = ObjectiveConfig.model_validate({"noise": 0, "unroll": 2, **options})
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        adam.zero_grad()
        loss = training_loss(model, batch, config, HISTORY, NOISE)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
