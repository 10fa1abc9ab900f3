"""What a look at the stacks of a rank costs, and what it cost when faulthandler wrote them.

    python benchmarks/heartbeat.py [--looks N]

Both look at threads that wait in a stack as deep as that of a training: the training thread and one
of its workers are watched, the others are there. The rounds of both alternate.
"""

import argparse
import faulthandler
import os
import re
import statistics
import threading
import time
from collections.abc import Callable

from dpot_scale.runs.stacks import WORKERS, Place

DEPTH = 40  # frames of each thread
THREADS = 4
ROUNDS = 9
THREAD = re.compile(r"hread (0x[0-9a-f]+) .*\n((?:  .*\n)*)")


def main() -> None:
    """Print the median time of a look, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=200, help="in each round")
    looks = parser.parse_args().looks
    ending = threading.Event()
    threads = [
        threading.Thread(target=wait, args=(DEPTH, ending), name=WORKERS[0] if i == 1 else None)
        for i in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    place = Place(threads[0].ident or 0)
    ways: dict[str, Callable[[], object]] = {"faulthandler": written, "a look": place.has_changed}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, look in ways.items():
            begun = time.perf_counter()
            for _ in range(looks):
                look()
            times[name].append((time.perf_counter() - begun) / looks)
    ending.set()
    for name, found in times.items():
        print(f"{name:<14}{1e6 * statistics.median(found):>8.0f} us")
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    print(f"ratio of each round, from {min(ratios):.0f} to {max(ratios):.0f}")


def wait(depth: int, ending: threading.Event) -> None:
    """Wait, `depth` calls further in."""
    if depth:
        wait(depth - 1, ending)
    ending.wait()


FILE = os.fdopen(os.memfd_create("stacks"), "w+b", buffering=0)


def written() -> dict[int, str]:
    """Return the stacks that faulthandler writes, by thread."""
    FILE.seek(0)
    FILE.truncate()
    faulthandler.dump_traceback(FILE, all_threads=True)
    FILE.seek(0)
    text = FILE.read().decode()
    return {int(ident, 16): stack for ident, stack in THREAD.findall(text)}


if __name__ == "__main__":
    main()
