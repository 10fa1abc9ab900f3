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
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from soak_archive import ArchiveServer
from soak_checks import (
    Curves,
    curves_of,
    differences,
    of_archive,
    of_mlflow,
    send_what_is_missing,
)
from soak_data import DataDisk
from soak_faults import DAMAGED_DATA
from soak_leaks import Growth, Held, Left, Watcher, family, grown, held, leaks, look
from soak_plan import Plan
from soak_report import line, summary, write
from soak_round import Outcome, disturbed
from soak_runs import (
    CHECKPOINT_EVERY,
    STEPS,
    Around,
    Training,
    mount,
    prepare,
    remove,
)
from soak_servers import RayCluster, Server

from dpot_scale.config.places import QUARANTINE

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
    server, archive, watcher = Server(folder), ArchiveServer(folder), Watcher()
    prepare(folder, server.address)
    expected = undisturbed(folder, "undisturbed")
    around = Around(server, archive, DataDisk(folder / "data"), RayCluster(folder))
    plan = Plan(seed, FAULTY_STEPS)
    watcher.add_all()
    before, first = look(), now_held(around)
    outcomes, growths, begun = list[Outcome](), list[Growth](), time.monotonic()
    while time.monotonic() < begun + 60 * minutes:
        planned = plan.next_round()
        name = f"{planned.launcher}_{planned.number:03}"
        training = Training(folder, name, planned.launcher, around)
        outcome = disturbed(training, planned, watcher.add_all)
        plan.put_back(outcome.left_out)
        server.wait()
        if outcome.codes[-1] == 0:
            compare(training, expected, outcome)
        outcome.differences += left_over(before, [os.getpid(), *roots(around)])
        before, outcome.held = look(), now_held(around)
        outcome.minutes = (time.monotonic() - begun) / 60
        remove(training)
        outcomes.append(outcome)
        print(line(outcome), flush=True)
        growths = grown(watcher.looks)
        write(folder / RESULT, seed, outcomes, growths)  # the next may not come to its end
    watcher.close()
    around.ray.close()
    text, is_sound = summary(outcomes, first, growths)
    print(text)
    return 0 if is_sound else 1


def roots(around: Around) -> list[int]:
    """Return the processes that live on, which have started others."""
    ray = around.ray
    return [around.mlflow.process.pid, around.archive.process.pid, ray.head.pid, ray.node.pid]


def now_held(around: Around) -> Held:
    """Return what there is now."""
    mlflow_pid, archive_pid, *ray_pids = roots(around)
    named = {"MLflow": family([mlflow_pid]), "the archive": family([archive_pid])}
    return held(named | {"Ray": family(ray_pids), "soak": {os.getpid()}})


def undisturbed(folder: Path, name: str, quarantine: Path | None = None) -> Curves:
    """Return the curves of a run without a fault.

    Args:
        folder: Of the soak.
        name: Of the run.
        quarantine: The record of the windows for which others are read, as from the begin of the
            run; None: each is read.
    """
    training = Training(folder, name, "deepspeed")
    if quarantine is not None:
        training.directory.mkdir(parents=True)
        shutil.copy(quarantine, training.directory)
    training.start()
    if training.process.wait() != 0:
        raise SystemExit(f"a run without a fault failed:\n{training.log.read_text()}")
    curves = curves_of(training)
    remove(training)
    return curves


def compare(training: Training, expected: Curves, outcome: Outcome) -> None:
    """Note how a finished run differs from an undisturbed one, MLflow and archive from the run.

    One that had to read other windows is compared with an undisturbed run that reads these, too.
    """
    record = training.directory / QUARANTINE
    outcome.replaced = len(json.loads(record.read_text())["windows"]) if record.exists() else 0
    if outcome.replaced and all(one.fault != DAMAGED_DATA for one in outcome.caused):
        outcome.differences.append(f"{outcome.replaced} windows were replaced without a reason")
    elif outcome.replaced:
        expected = undisturbed(training.log.parent, f"{training.name}_again", record)
    outcome.differences += differences(training, expected)
    if of_archive(training):
        outcome.archived_later = True
        training.start()  # a finished run sends what is missing
        training.process.wait()
    outcome.differences += of_archive(training)
    address = training.around.mlflow.address
    if of_mlflow(training, address):
        outcome.sent_later = True
        send_what_is_missing([str(training.results)])
    outcome.differences += of_mlflow(training, address)


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
