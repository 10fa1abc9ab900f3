"""Run a scaling experiment: `python -m dpot_scale.sweep [plan|run|status|report]`.

Bare, it plans and runs the quickstart sweep. The same command continues a sweep that was
interrupted, on a laptop and as `ray job submit --working-dir . -- python -m dpot_scale.sweep`.
"""

import argparse
import sys
from collections.abc import Sequence

from dpot_scale.config.load import add_config_arguments, dump, load_sweep
from dpot_scale.config.places import HOME_VARIABLE, anchored, results_home
from dpot_scale.config.schema import SweepConfig
from dpot_scale.errors import exits_cleanly
from dpot_scale.scaling.plan import Trial, plan, plan_table
from dpot_scale.training.console import print_line

COMMANDS = {
    "plan": "print every trial with its price; spends nothing",
    "run": "print the plan, run what is left of it, and report (the default)",
    "status": "print how far each trial is",
    "report": "write the figure and the tables from what has finished",
}


@exits_cleanly
def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; exit code 1 if a trial failed."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    sweep = load_sweep(options.config, options.overrides)
    if options.print_config:
        print_line(dump(sweep))
        return 0
    sweep = anchored(sweep, results_home())
    return _execute(options.command, sweep, plan(sweep))


def _execute(command: str, sweep: SweepConfig, trials: Sequence[Trial]) -> int:
    # What a command does not need is not imported: Ray and MLflow take seconds.
    match command:
        case "plan":
            print_line(plan_table(sweep, trials))
        case "status":
            from dpot_scale.scaling.status import status_table

            print_line(status_table(sweep, trials))
        case "report":
            from dpot_scale.scaling.report import write_report

            print_line(write_report(sweep, trials).summary)
        case _:
            print_line(plan_table(sweep, trials))
            print_line(f"\nresults go to {sweep.directory}\n")
            from dpot_scale.scaling.controller import run_sweep

            return 1 if run_sweep(sweep, trials, print_line) else 0
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dpot_scale.sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python -m dpot_scale.sweep [plan|run|status|report] [--config PATH_OR_PRESET] "
        "[--print-config] [key.sub=value ...]",
        description="Train every model of a ladder through Ray Train and fit a scaling law.\n\n"
        + "\n".join(f"  {name:<8}{text}" for name, text in COMMANDS.items()),
        epilog=f"Results lie below ${HOME_VARIABLE} if that is set; else below ~/dpot_scale in a "
        "Ray job, and here otherwise.",
    )
    add_config_arguments(parser, "sweep")
    command, rest = "run", list(arguments)
    if rest and rest[0] in COMMANDS:
        command = rest.pop(0)
    options = parser.parse_args(rest)
    options.command = command
    return options


if __name__ == "__main__":
    sys.exit(main())
