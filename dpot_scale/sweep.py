"""Run a scaling experiment: `python -m dpot_scale.sweep [plan|run|status|cancel|report]`.

Bare, it plans and runs the quickstart sweep. The same command continues a sweep that was
interrupted, on a laptop and as `ray job submit --working-dir . -- python -m dpot_scale.sweep`.
"""

import argparse
import sys
from collections.abc import Sequence

from dpot_scale.config.arguments import (
    Entry,
    add_config_arguments,
    hours,
    positive_integer,
    positive_number,
)
from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import WEIGHTS, resolve_sweep_paths, results_home
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError, exits_cleanly
from dpot_scale.runs.folder import require_kind
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.cost import DEVICES
from dpot_scale.scaling.earlier import earlier_trials, require_same_sweep
from dpot_scale.scaling.fitting import require_fit
from dpot_scale.scaling.moved import original_of, where_it_lies
from dpot_scale.scaling.plan import Trial, named, on_device, plan
from dpot_scale.scaling.plan_text import Terms, plan_json, plan_table
from dpot_scale.terminal import print_line, under_way
from dpot_scale.tracking.registered import locator

COMMANDS = {
    "plan": "print every trial with its price; spends nothing",
    "run": "print the plan, run what is left (or [TRIAL ...] of it), and report (the default)",
    "status": "print how far each trial is; --watch: until the sweep ends",
    "cancel": "TRIAL ...: let these trials save and end, and do not train them again",
    "report": "write the figure and the tables from what has finished",
}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; the exit code is 1 if a trial failed, 2 for wrong usage."""
    entry = Entry(
        "sweep", "Train the runs of a design through Ray Train and fit scaling laws.", _execute
    )
    entry.add_words(COMMANDS, default="run", with_names=["run", "cancel"])
    _add_options(entry)
    add_config_arguments(entry, "sweep", example="run.optim.lr=1e-3")
    return entry.run(argv)


def _add_options(entry: Entry) -> None:
    entry.add_argument("--watch", action="store_true", help="with status: until the sweep ends")
    plans = entry.add_argument_group("with plan")
    plans.add_argument("--json", action="store_true", help="print the plan as JSON")
    plans.add_argument(
        "--device",
        choices=sorted(DEVICES),
        help="price the plan for such workers (default: this machine, as fast as trials were here)",
    )
    plans.add_argument(
        "--devices", type=positive_integer, metavar="N", help="how many workers there are in all"
    )
    plans.add_argument(
        "--price", type=positive_number, metavar="X", help="price of a device hour, any currency"
    )
    plans.add_argument(
        "--budget",
        type=hours,
        metavar="20h",
        help="choose the trials that narrow the law most for so many device hours",
    )


def _require_command_of_options(options: argparse.Namespace) -> None:
    """Refuse an option that the command would leave aside."""
    of_command = {"status": ["watch"], "plan": ["json", "device", "devices", "price", "budget"]}
    for command, names in of_command.items():
        given = [name for name in names if getattr(options, name)]
        if given and options.command != command:
            raise ConfigError(f"--{given[0]} goes with `{command}`, not with `{options.command}`")


def _execute(options: argparse.Namespace) -> int:
    _require_command_of_options(options)
    sweep = load_sweep(options.config, options.overrides)
    if options.print_config:
        print_line(dump(sweep))
        return 0
    home = results_home()
    locate = locator(sweep.run.tracking.mlflow_uri, options.overrides, home)
    sweep = resolve_sweep_paths(sweep, home, locate)
    if options.command == "plan":
        return _plan(options, sweep)
    if options.command == "report":
        sweep = where_it_lies(sweep, options.config)
    trials = plan(sweep)
    require_kind(sweep.directory, "sweep")
    require_same_sweep(sweep, trials)
    # A command imports no more than it needs: matplotlib, MLflow and Ray load for seconds.
    match options.command:
        case "status":
            from dpot_scale.scaling.status import watch_status

            watch_status(sweep, trials, print_line, once=not options.watch)
        case "cancel":
            _cancel(trials, options.names)
        case "report":
            _report(sweep, trials)
        case _:
            from dpot_scale.scaling.driver import run_sweep

            failures = run_sweep(
                sweep, named(trials, options.names), print_line, preset=options.config
            )
            trials = plan(sweep)  # with the rates that a probe has found by now
            _register_best(sweep, (*trials, *earlier_trials(sweep, trials)))
            return 1 if failures else 0
    return 0


def _report(sweep: SweepConfig, trials: Sequence[Trial]) -> None:
    with under_way("writing the report"):
        from dpot_scale.scaling.report.write import publish, write_report

        report = write_report(sweep, (*trials, *earlier_trials(sweep, trials)))
    print_line(report.summary)
    original = original_of(sweep)
    if original is None:
        publish(report, sweep)
    else:
        print_line(f"a copy of {original}, whose page in MLflow stays as it is")


def _cancel(trials: Sequence[Trial], names: Sequence[str]) -> None:
    from dpot_scale.scaling.stopping import cancel

    if not names:
        raise ConfigError("name the trials to cancel, as `status` does: cancel TRIAL ...")
    for name in names:
        (trial,) = [one for one in named(trials, [name]) if one.id == name]
        if trial.role == "unprobed":
            raise ConfigError(f"{name} has no id before its rate is probed; cancel it then")
        if read_result(trial.run.directory) is not None:
            raise ConfigError(f"{name} has finished: there is nothing to cancel")
        file = cancel(trial.run.directory)
        print_line(f"{name}: cancelled; to take it back, remove {file}")


def _plan(options: argparse.Namespace, sweep: SweepConfig) -> int:
    """Print the plan, or what to run of it for a budget."""
    terms = Terms(device=options.device, devices=options.devices, price=options.price)
    trials = plan(sweep, terms.device)
    sweep = on_device(sweep, terms.device)
    require_fit(sweep, trials, terms.device)
    words = None
    if options.budget is not None:
        # SciPy loads for a second.
        from dpot_scale.scaling.budget import choose_trials

        choice = choose_trials(sweep, trials, earlier_trials(sweep, trials), options.budget)
        trials, words = choice.trials, choice.words
    if options.json:
        print_line(plan_json(sweep, trials, terms, words))
        return 0
    print_line(plan_table(sweep, trials, terms))
    if words is not None:
        names = " ".join(trial.id for trial in trials)
        print_line(f"{words}\nrun them with: python -m dpot_scale.sweep run ... {names}")
    return 0


def _register_best(sweep: SweepConfig, trials: Sequence[Trial]) -> None:
    """Put the best model into MLflow's registry, under the name of the sweep."""
    from dpot_scale.scaling.report.results import best_trial, finished_trials

    best, uri = best_trial(finished_trials(trials)), sweep.run.tracking.mlflow_uri
    if best is None or uri is None or not (best.trial.run.directory / WEIGHTS).is_file():
        return  # of a sweep of long ago the weights may be gone
    with under_way("registering the best model"):
        from dpot_scale.serving.registry import offer

        offer(best.trial.run.directory, sweep.name, uri, print_line)


if __name__ == "__main__":
    sys.exit(main())
