"""Check a machine or a cluster before hours are spent on it: `python -m dpot_scale.doctor`.

Alone it looks at this machine; as `deepspeed dpot_scale/doctor.py` or under torchrun at all ranks;
with RAY_ADDRESS, in a Ray job, or with --workers N, at N workers of a Ray cluster.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from dpot_scale.config.arguments import Entry, add_config_arguments, positive_integer
from dpot_scale.config.load import dump, load_run
from dpot_scale.config.places import in_job, resolve_run_paths, results_home
from dpot_scale.errors import exits_cleanly, speaks_for_all
from dpot_scale.terminal import print_line, under_way

WORKERS = 2  # of a Ray cluster, unless --workers says how many


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Make all checks and print them; the exit code is 1 if one found what stops a run."""
    entry = Entry(
        "doctor",
        "Check versions, devices, links, storage, locks, clocks, MLflow and ten training steps, "
        "and say what to do. Alone it looks at this machine, under a launcher at all ranks.",
        _execute,
    )
    add_config_arguments(entry, "run", example="output=/shared/runs")
    entry.add_argument(
        "--workers",
        type=positive_integer,
        metavar="N",
        help=f"look at N workers of a Ray cluster ({WORKERS} where RAY_ADDRESS names one)",
    )
    entry.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return entry.run(argv)


def _execute(options: argparse.Namespace) -> int:
    config = load_run(options.config, options.overrides)
    if options.print_config:
        print_line(dump(config))
        return 0
    config = resolve_run_paths(config, results_home())
    # Torch loads for seconds, so the mistakes of a config come first.
    with under_way("looking at this machine", sys.stderr):
        from dpot_scale.diagnosis.examination import examine, examine_cluster, stopped
        from dpot_scale.diagnosis.finding import report

        on_ray = options.workers is not None or in_job() or "RAY_ADDRESS" in os.environ
        if on_ray and "RANK" not in os.environ:
            findings = examine_cluster(config, options.workers or WORKERS)
        else:
            findings = examine(config)
    if speaks_for_all():
        print_line(report(findings))
    return 1 if stopped(findings) else 0


if __name__ == "__main__":
    sys.exit(main())
