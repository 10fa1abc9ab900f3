"""Run a scaling experiment: `python -m dpot_scale.sweep [plan|run|status|report]`.

Bare, it plans and runs the quickstart sweep. The same command continues a sweep that was
interrupted, on a laptop and as `ray job submit --working-dir . -- python -m dpot_scale.sweep`.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence

from dpot_scale.config.arguments import PLACES, Parser, add_config_arguments
from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import SWEEP_CONFIG, anchored, results_home
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError, UserError, exits_cleanly
from dpot_scale.runs.folder import found_marks, require_kind
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.plan import Trial, plan, plan_table
from dpot_scale.terminal import print_line

COMMANDS = {
    "plan": "print every trial with its price; spends nothing",
    "run": "print the plan, run what is left of it, and report (the default)",
    "status": "print how far each trial is",
    "report": "write the figure and the tables from what has finished",
}


@exits_cleanly
def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; exit code 1 if a trial failed."""
    options = _options(arguments)
    sweep = load_sweep(options.config, options.overrides)
    if options.print_config:
        print_line(dump(sweep))
        return 0
    sweep = anchored(sweep, results_home())
    return _execute(options.command, sweep, plan(sweep))


def _execute(command: str, sweep: SweepConfig, trials: Sequence[Trial]) -> int:
    # What a command does not need is not imported: Ray and MLflow take seconds.
    if command == "plan":
        print_line(plan_table(sweep, trials))
        return 0
    require_kind(sweep.directory, "sweep")
    _require_same_sweep(sweep, trials)
    match command:
        case "status":
            from dpot_scale.scaling.status import status_table

            text = status_table(sweep, trials)
            _require_begun(sweep)
            print_line(text)
        case "report":
            from dpot_scale.scaling.report import publish, write_report

            report = write_report(sweep, trials)
            print_line(report.summary)
            publish(report, sweep)
        case _:
            print_line(plan_table(sweep, trials))
            print_line(f"\nresults go to {sweep.directory}\n")
            return _run(sweep, trials)
    return 0


def _run(sweep: SweepConfig, trials: Sequence[Trial]) -> int:
    """Run what is left of a sweep; one that has ended is only shown, without Ray."""
    from dpot_scale.scaling.report import REPORT, write_report

    ended = all(read_result(trial.run.directory) is not None for trial in trials)
    if ended and (sweep.directory / REPORT).exists():
        for trial in trials:
            print_line(f"{trial.id}: finished before")
        print_line(f"\n{write_report(sweep, trials).summary}")
        return 0
    from dpot_scale.scaling.controller import run_sweep

    return 1 if run_sweep(sweep, trials, print_line) else 0


def _require_same_sweep(sweep: SweepConfig, trials: Sequence[Trial]) -> None:
    """Make sure that the sweep has planned what was started in its folder; it may plan more."""
    from dpot_scale.scaling.journal import Journal

    started = {entry.trial for entry in Journal(sweep.directory).entries()}
    if others := sorted(started - {trial.id for trial in trials}):
        raise ConfigError(
            f"{sweep.directory} holds a sweep of another config (see {SWEEP_CONFIG} there), which "
            f"started {', '.join(others)}; restore that config, or choose another `name` or "
            "`run.output`"
        )


def _require_begun(sweep: SweepConfig) -> None:
    if not found_marks(sweep.directory, "sweep"):
        raise UserError(
            f"no sweep was started in {sweep.directory} yet; start it with `run` in place of "
            "`status`, or give the `--config` and overrides that it was started with"
        )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m dpot_scale.sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python -m dpot_scale.sweep [plan|run|status|report] [--config PATH_OR_PRESET] "
        "[--print-config] [key.sub=value ...]",
        description="Train every model of a ladder through Ray Train and fit a scaling law.\n\n"
        + "\n".join(f"  {name:<8}{text}" for name, text in COMMANDS.items()),
        epilog=textwrap.fill(PLACES),
    )
    add_config_arguments(parser, "sweep", example="run.optim.lr=1e-3")
    options = parser.parse_intermixed_args(arguments)
    words = [word for word in options.overrides if "=" not in word]
    parser.require_command(words or ["run"], COMMANDS)
    if len(words) > 1:
        parser.error(f"give one command, not {' and '.join(words)}")
    options.command = words[0] if words else "run"
    options.overrides = [word for word in options.overrides if "=" in word]
    return options


if __name__ == "__main__":
    sys.exit(main())
