"""The trials that a report does not take in, and why."""

from collections.abc import Sequence

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.results import Finished
from dpot_scale.scaling.stopping import is_cancelled


def left_out(
    sweep: SweepConfig, trials: Sequence[Trial], finished: Sequence[Finished]
) -> dict[str, str]:
    """Return the reason of each trial that has ended without a result, by its id.

    Those that have not ended are no matter of a reason: they are yet to come.
    """
    done = {entry.trial.id for entry in finished}
    newest = Journal(sweep.directory).newest()
    reasons = {}
    for trial in trials:
        last = newest.get(trial.id)
        if trial.id in done:
            continue
        if is_cancelled(trial.run.directory):
            reasons[trial.id] = "cancelled"
        elif last is not None and last.event == "failed":
            reasons[trial.id] = f"failed: {last.reason}"
    return reasons
