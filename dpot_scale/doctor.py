"""Check a machine or a cluster before hours are spent on it: `python -m dpot_scale.doctor`.

Alone it looks at this machine; as `deepspeed dpot_scale/doctor.py` or under torchrun at all ranks;
with RAY_ADDRESS, in a Ray job, or with --workers N, at N workers of a Ray cluster.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from dpot_scale.config.arguments import Entry, add_config_arguments, positive_integer
from dpot_scale.config.load import dump, is_of_sweep, load_run, load_sweep
from dpot_scale.config.places import (
    in_job,
    resolve_run_paths,
    resolve_sweep_paths,
    results_home,
)
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.errors import exits_cleanly, speaks_for_all
from dpot_scale.models.families import count_parameters
from dpot_scale.scaling.design import points_of
from dpot_scale.terminal import print_line, under_way

WORKERS = 2  # of a Ray cluster, unless --workers or a sweep says how many


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Make all checks and print them; the exit code is 1 if one found what stops a run."""
    entry = Entry(
        "doctor",
        "Check versions, devices, links, storage, locks, clocks, MLflow and ten training steps, "
        "and say what to do. Alone it looks at this machine, under a launcher at all ranks.",
        _execute,
    )
    add_config_arguments(entry, "run", "sweep", example="output=/shared/runs")
    entry.add_argument(
        "--workers",
        type=positive_integer,
        metavar="N",
        help="look at N workers of a Ray cluster (default where RAY_ADDRESS names one: those of a "
        f"trial of the sweep, else {WORKERS})",
    )
    entry.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return entry.run(argv)


def _execute(options: argparse.Namespace) -> int:
    load = load_sweep if is_of_sweep(options.config) else load_run
    config: RunConfig | SweepConfig = load(options.config, options.overrides)
    if options.print_config:
        print_line(dump(config))
        return 0
    run, resources = _as_run(config)
    if options.workers is not None:
        resources = resources.on(options.workers)
    # Torch loads for seconds, so the mistakes of a config come first.
    with under_way("looking at this machine", sys.stderr):
        from dpot_scale.diagnosis.examination import examine, examine_cluster, stopped
        from dpot_scale.diagnosis.finding import report

        on_ray = options.workers is not None or in_job() or bool(os.environ.get("RAY_ADDRESS"))
        if on_ray and "RANK" not in os.environ:
            findings = examine_cluster(run, resources)
        else:
            findings = examine(run)
    if speaks_for_all():
        print_line(report(findings))
    return 1 if stopped(findings) else 0


def _as_run(config: RunConfig | SweepConfig) -> tuple[RunConfig, ResourcesConfig]:
    """Return the run to look at, its paths absolute, and its workers on a Ray cluster.

    Of a sweep, that is the trial with the largest model, on the least workers that it needs.
    """
    if isinstance(config, RunConfig):
        run = resolve_run_paths(config, results_home())
        return run, ResourcesConfig(workers=WORKERS)
    sweep = resolve_sweep_paths(config, results_home())
    runs = [point.run for point in points_of(sweep)]
    largest = max(runs, key=lambda run: count_parameters(run.model).total)
    return largest, sweep.resources.on(sweep.resources.least_workers)


if __name__ == "__main__":
    sys.exit(main())
