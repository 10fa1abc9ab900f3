"""Shows the newest metrics of a trial to Prometheus, through the endpoint that each Ray node has.

A thread reads what the run appends to its spool, so that training knows nothing of it. Ray itself
exports its own state, such as memory and GPU use of the nodes; cluster/monitoring/ draws both.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from ray.util.metrics import Gauge

from dpot_scale.errors import RecordError
from dpot_scale.tracking.names import LOSS
from dpot_scale.tracking.spool import SPOOL, STEP, complete_records, values_of

# Prometheus sees it as ray_dpot_scale_metric{run="...", metric="train/loss"}.
NAME = "dpot_scale_metric"
LOOK_SECONDS = 5.0  # between two looks; Ray exports every 10 seconds


@contextlib.contextmanager
def shown_metrics(directory: Path) -> Iterator[None]:
    """Show the newest value of each metric of a run, and its step, while the block lasts.

    Args:
        directory: That of the run.
    """
    gauge = Gauge(NAME, "Newest value of a metric of a run", tag_keys=("run", "metric"))
    ended = threading.Event()
    thread = threading.Thread(
        target=_show, args=(gauge, directory, ended), name="gauges", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _show(gauge: Gauge, directory: Path, ended: threading.Event) -> None:
    offset = 0
    while True:
        last_look = ended.wait(LOOK_SECONDS)
        # The spool is the truth, and whoever reads the run will say what is wrong with it.
        with contextlib.suppress(OSError, RecordError):
            records, offset = complete_records(directory / SPOOL, offset)
            for record in records:
                # What a run reached at its end is recorded at step 0.
                trains = {STEP: record[STEP]} if LOSS in record else {}
                for metric, value in {**values_of(record), **trains}.items():
                    gauge.set(value, {"run": directory.name, "metric": metric})
        if last_look:
            return
