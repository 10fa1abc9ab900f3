"""Learning rate and momentum as pure functions of the step: nothing to save, nothing to replay."""

import math

from dpot_scale.config.run import OptimConfig

# One-cycle momentum cycling (PAPER section 2): beta1 is low where the learning rate is high.
MAX_BETA1 = 0.95
MIN_BETA1 = 0.85


def lr_at(step: int, total_steps: int, optim: OptimConfig) -> float:
    """Return the learning rate of the update that follows `step` finished ones."""
    first, last = optim.lr * optim.initial_lr_ratio, optim.lr * optim.final_lr_ratio
    if optim.schedule == "one_cycle":
        return _one_cycle(step, total_steps, optim, first, optim.lr, last)
    warmup = optim.warmup_fraction * total_steps
    if step < warmup:
        return _linear(first, optim.lr, step / warmup)
    decay = total_steps - warmup
    if optim.schedule == "warmup_stable_decay":
        decay = min(decay, optim.decay_fraction * total_steps)
    progress = (step - (total_steps - decay)) / max(decay - 1, 1)
    if optim.schedule == "cosine":
        return _cosine(optim.lr, last, progress)
    return _linear(optim.lr, last, max(progress, 0.0))


def betas_at(step: int, total_steps: int, optim: OptimConfig) -> tuple[float, float]:
    """Return Adam's betas of the update that follows `step` finished ones."""
    if not (optim.schedule == "one_cycle" and optim.cycle_momentum):
        return optim.betas
    beta1 = _one_cycle(step, total_steps, optim, MAX_BETA1, MIN_BETA1, MAX_BETA1)
    return beta1, optim.betas[1]


def _one_cycle(
    step: int, total_steps: int, optim: OptimConfig, first: float, peak: float, last: float
) -> float:
    """Return first -> peak -> last along two half cosines, as torch's OneCycleLR does."""
    peak_step = optim.warmup_fraction * total_steps - 1
    if step <= peak_step:
        return _cosine(first, peak, step / peak_step if peak_step else 1.0)
    return _cosine(peak, last, (step - peak_step) / (total_steps - 1 - peak_step))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def _linear(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress
