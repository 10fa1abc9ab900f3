"""Learning rate and momentum as pure functions of the step: nothing to save, nothing to replay."""

import math

from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.run import RunConfig
from dpot_scale.engine.engine import Rates

# One-cycle momentum cycling (Hao et al. 2024): beta1 is low where the learning rate is high.
MAX_BETA1 = 0.95
MIN_BETA1 = 0.85


class Schedule:
    """The rates of every step of a run.

    Args:
        optim: Learning rate and schedule.
        windows: The windows of the whole run.
        global_batch: Windows per step.
    """

    def __init__(self, optim: OptimConfig, *, windows: int, global_batch: int) -> None:
        self.optim = optim
        self.total_steps = windows // global_batch
        # In steps, which need not be whole.
        self._warmup = optim.warmup.in_steps(self.total_steps, global_batch)
        self._decay = optim.decay.in_steps(self.total_steps, global_batch)

    @classmethod
    def of(cls, config: RunConfig) -> "Schedule":
        """Return the schedule of a run, with the rates for the width of its model."""
        return cls(
            config.settled_optim,
            windows=config.windows,
            global_batch=config.batch.global_batch,
        )

    def at(self, step: int) -> Rates:
        """Return the rates of the update that follows `step` finished ones."""
        optim = self.optim
        return Rates(
            lr=self._lr(step, optim.lr),
            betas=self._betas(step),
            muon_lr=self._lr(step, optim.muon_lr),
        )

    def _lr(self, step: int, peak: float) -> float:
        optim = self.optim
        first, last = peak * optim.initial_lr_ratio, peak * optim.final_lr_ratio
        if optim.schedule == "one_cycle":
            return self._one_cycle(step, first, peak, last)
        if step < self._warmup:
            return _linear(first, peak, step / self._warmup)
        decay = self.total_steps - self._warmup
        if optim.schedule == "warmup_stable_decay":
            decay = min(decay, self._decay)
        progress = (step - (self.total_steps - decay)) / max(decay - 1, 1)
        if optim.schedule == "cosine":
            return _cosine(peak, last, progress)
        return _linear(peak, last, max(progress, 0.0))

    def _betas(self, step: int) -> tuple[float, float]:
        optim = self.optim
        if not (optim.schedule == "one_cycle" and optim.cycle_momentum):
            return optim.betas
        return self._one_cycle(step, MAX_BETA1, MIN_BETA1, MAX_BETA1), optim.betas[1]

    def _one_cycle(self, step: int, first: float, peak: float, last: float) -> float:
        """Return first -> peak -> last along two half cosines, as torch's OneCycleLR does."""
        peak_step = self._warmup - 1
        if step <= peak_step:
            return _cosine(first, peak, step / peak_step if peak_step else 1.0)
        return _cosine(peak, last, (step - peak_step) / (self.total_steps - 1 - peak_step))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def _linear(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress
