"""Does a run reach the same numbers whatever happens to it, and does it leave nothing behind?

    python benchmarks/soak.py [--minutes 30] [--seed 0] [--out soak.json]

A small model trains on two ranks, in rounds: under the `deepspeed` launcher, torchrun, or Ray with
two nodes, mirrored to a real MLflow server. The seed draws three faults for each round
(`soak_plan.py`): every kind (`soak_faults.py`) comes before one comes again. The same command is
started again until the run is finished. Then all of its losses and scores must be those of an
undisturbed run, bit for bit, and all of its points must be in MLflow, once, with the right status.
No process, temporary file or shared memory may be left, and the memory and open files of what lives
on may not grow. At any difference it exits with code 1.

It needs Linux and the right to make namespaces (root): it has a /tmp, a /dev/shm and process ids of
its own, so that it has made whatever is left there.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from soak_checks import Curves, curves_of, differences, of_mlflow, send_what_is_missing
from soak_leaks import Growth, Held, Left, Watcher, family, grown, held, leaks, look
from soak_plan import Plan
from soak_report import line, summary, write
from soak_round import Outcome, disturbed
from soak_runs import (
    CHECKPOINT_EVERY,
    STEPS,
    RayCluster,
    Server,
    Training,
    mount,
    prepare,
    remove,
)

INSIDE = "--inside"  # the folder of a soak that runs in its namespaces
RESULT = "soak.json"
GRACE_SECONDS = 30.0  # for processes to end
# Two checkpoints are there before the first of these, and the run is far from its end at the last.
FAULTY_STEPS = range(2 * CHECKPOINT_EVERY + 3, STEPS - 2 * CHECKPOINT_EVERY)


def main() -> int:
    """Run a soak in namespaces of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for all that was found")
    parser.add_argument(INSIDE, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        return soak(options.inside, options.seed, options.minutes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends, too
    # On a real disk: the soak gets a /tmp of its own.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="soak_") as folder:
        # The shell is the first process of its namespace, which takes on orphans.
        shell = ["bash", "-c", '"$@"; exit $?', "soak", sys.executable, *sys.argv]
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        ended = subprocess.run([*own, *shell, INSIDE, folder], check=False)
        if options.out is not None and (Path(folder) / RESULT).exists():
            shutil.copy(Path(folder) / RESULT, options.out)
    return ended.returncode


def soak(folder: Path, seed: int, minutes: float) -> int:
    """Train and disturb for so long; say what was found."""
    print(f"seed {seed}, {minutes:g} minutes, {STEPS} steps a round", flush=True)
    for place in ("/tmp", "/dev/shm"):
        mount(Path(place), "50%")
    server, watcher = Server(folder), Watcher()
    prepare(folder, server.address)
    expected = undisturbed(folder)
    ray, plan = RayCluster(folder), Plan(seed, FAULTY_STEPS)
    watcher.add_all()
    before, first = look(), now_held(server, ray)
    outcomes, growths, begun = list[Outcome](), list[Growth](), time.monotonic()
    while time.monotonic() < begun + 60 * minutes:
        planned = plan.next_round()
        training = Training(
            folder, f"{planned.launcher}_{planned.number:03}", planned.launcher, server, ray
        )
        outcome = disturbed(training, planned, watcher.add_all)
        plan.put_back(outcome.left_out)
        server.wait()
        if outcome.codes[-1] == 0:
            compare(training, expected, server, outcome)
        outcome.differences += left_over(before, [os.getpid(), *roots(server, ray)])
        before, outcome.held = look(), now_held(server, ray)
        outcome.minutes = (time.monotonic() - begun) / 60
        remove(training)
        outcomes.append(outcome)
        print(line(outcome), flush=True)
        growths = grown(watcher.looks)
        write(folder / RESULT, seed, outcomes, growths)  # the next may not come to its end
    watcher.close()
    ray.close()
    text, is_sound = summary(outcomes, first, growths)
    print(text)
    return 0 if is_sound else 1


def roots(server: Server, ray: RayCluster) -> list[int]:
    """Return the processes that live on, which have started others."""
    return [server.process.pid, ray.head.pid, ray.node.pid]


def now_held(server: Server, ray: RayCluster) -> Held:
    """Return what there is now."""
    server_pid, *ray_pids = roots(server, ray)
    return held({"MLflow": family([server_pid]), "Ray": family(ray_pids), "soak": {os.getpid()}})


def undisturbed(folder: Path) -> Curves:
    """Return the curves of a run without a fault."""
    training = Training(folder, "undisturbed", "deepspeed")
    training.start()
    if training.process.wait() != 0:
        raise SystemExit(f"the undisturbed run failed:\n{training.log.read_text()}")
    curves = curves_of(training)
    remove(training)
    return curves


def compare(training: Training, expected: Curves, server: Server, outcome: Outcome) -> None:
    """Note how a finished run differs from an undisturbed one, and MLflow from the run."""
    outcome.differences += differences(training, expected)
    if of_mlflow(training, server.address):
        outcome.sent_later = True
        send_what_is_missing([str(training.results)])
    outcome.differences += of_mlflow(training, server.address)


def left_over(before: Left, roots: Sequence[int]) -> list[str]:
    """Return in words what a round has left, after some time to end."""
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        found = leaks(before, look(), expected=family(roots))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
