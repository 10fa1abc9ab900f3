"""Run a scaling experiment: `python -m dpot_scale.sweep [plan|run|status|cancel|report]`.

Bare, it plans and runs the quickstart sweep. The same command continues a sweep that was
interrupted, on a laptop and as `ray job submit --working-dir . -- python -m dpot_scale.sweep`.
"""

import argparse
import sys
from collections.abc import Sequence

from dpot_scale.config.arguments import Entry, add_config_arguments
from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import WEIGHTS, resolve_sweep_paths, results_home
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import exits_cleanly
from dpot_scale.runs.folder import require_kind
from dpot_scale.scaling.earlier import earlier_trials, require_same_sweep
from dpot_scale.scaling.plan import Trial, plan, plan_table
from dpot_scale.terminal import print_line

COMMANDS = {
    "plan": "print every trial with its price; spends nothing",
    "run": "print the plan, run what is left of it, and report (the default)",
    "status": "print how far each trial is; --watch: until the sweep ends",
    "cancel": "TRIAL ...: let these trials save and end, and do not train them again",
    "report": "write the figure and the tables from what has finished",
}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; the exit code is 1 if a trial failed, 2 for wrong usage."""
    entry = Entry(
        "sweep", "Train every model of a ladder through Ray Train and fit a scaling law.", _execute
    )
    entry.add_words(COMMANDS, default="run", with_names=["cancel"])
    entry.add_argument("--watch", action="store_true", help="with status: until the sweep ends")
    add_config_arguments(entry, "sweep", example="run.optim.lr=1e-3")
    return entry.run(argv)


def _execute(options: argparse.Namespace) -> int:
    sweep = load_sweep(options.config, options.overrides)
    if options.print_config:
        print_line(dump(sweep))
        return 0
    sweep = resolve_sweep_paths(sweep, results_home())
    trials = plan(sweep)
    if options.command == "plan":
        print_line(plan_table(sweep, trials))
        return 0
    require_kind(sweep.directory, "sweep")
    require_same_sweep(sweep, trials)
    # A command imports no more than it needs: matplotlib, MLflow and Ray load for seconds.
    match options.command:
        case "status":
            from dpot_scale.scaling.status import watch_status

            watch_status(sweep, trials, print_line, once=not options.watch)
        case "cancel":
            from dpot_scale.scaling.stopping import cancel_trials

            directories = {trial.id: trial.run.directory for trial in trials}
            cancel_trials(directories, options.names, print_line)
        case "report":
            from dpot_scale.scaling.report.write import publish, write_report

            report = write_report(sweep, (*trials, *earlier_trials(sweep, trials)))
            print_line(report.summary)
            publish(report, sweep)
        case _:
            from dpot_scale.scaling.driver import run_sweep

            failures = run_sweep(sweep, trials, print_line)
            _register_best(sweep, (*trials, *earlier_trials(sweep, trials)))
            return 1 if failures else 0
    return 0


def _register_best(sweep: SweepConfig, trials: Sequence[Trial]) -> None:
    """Put the best model into MLflow's registry, under the name of the sweep."""
    from dpot_scale.scaling.report.results import best_trial, finished_trials

    best, uri = best_trial(finished_trials(trials)), sweep.run.tracking.mlflow_uri
    if best is None or uri is None or not (best.trial.run.directory / WEIGHTS).is_file():
        return  # of a sweep of long ago the weights may be gone
    from dpot_scale.serving.registry import offer

    offer(best.trial.run.directory, sweep.name, uri, print_line)


if __name__ == "__main__":
    sys.exit(main())
