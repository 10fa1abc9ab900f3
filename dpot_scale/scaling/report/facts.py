"""The numbers by which one sweep is compared with another."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.left_out import left_out
from dpot_scale.scaling.report.results import Finished, best_trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a sweep reached, and what it took."""

    best: Finished | None  # by the valid split, or by the test where there is none
    planned: int
    finished: int
    failed: int  # or cancelled
    train_flops: float  # of all finished trials; what branches share with a trunk counts once
    device_hours: float  # of the workers of finished trials, in the attempts that finished
    wall_hours: float | None  # from the first event to the last; None without a journal

    @property
    def waiting(self) -> int:
        """Trials that have not ended."""
        return self.planned - self.finished - self.failed


def facts_of(sweep: SweepConfig, trials: Sequence[Trial], finished: Sequence[Finished]) -> Facts:
    """Return the facts of a sweep, of which at least one trial has finished."""
    times = [entry.time for entry in Journal(sweep.directory).entries()]
    seconds = sum(entry.result.seconds * entry.result.world_size for entry in finished)
    return Facts(
        best=best_trial(finished),
        planned=len(trials),
        finished=len(finished),
        failed=len(left_out(sweep, trials, finished)),
        train_flops=sum(_own_flops(entry) for entry in finished),
        device_hours=seconds / 3600,
        wall_hours=(max(times) - min(times)).total_seconds() / 3600 if times else None,
    )


def _own_flops(entry: Finished) -> float:
    """Return the FLOPs of the steps that a trial does not share with a trunk."""
    after = entry.trial.after
    shared = 0.0 if after is None else after.step / entry.result.steps
    return (1 - shared) * entry.train_flops
