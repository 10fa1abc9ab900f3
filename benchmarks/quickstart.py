"""How long the bare quickstart sweep takes, and how much memory all its processes need together.

    python benchmarks/quickstart.py [FOLDER]

Runs `python -m dpot_scale.sweep` in FOLDER (default: a temporary one, so that data generation is
included) and samples the proportional memory of its process tree every two seconds.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

GIB = 2**30
SAMPLE_SECONDS = 2.0  # reading it costs the processes time


def main() -> None:
    """Run the sweep and print the two figures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        sweep = subprocess.Popen([sys.executable, "-m", "dpot_scale.sweep"], cwd=folder)
        peak = 0
        while sweep.poll() is None:
            peak = max(peak, tree_bytes(sweep.pid))
            time.sleep(SAMPLE_SECONDS)
        minutes = (time.perf_counter() - started) / 60
    print(f"\nexit code {sweep.returncode}, {minutes:.1f} min, peak memory {peak / GIB:.2f} GiB")
    print(f"load average {psutil.getloadavg()[1]:.1f} on {psutil.cpu_count()} cores")


def tree_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants, shared pages counted once."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    main()
