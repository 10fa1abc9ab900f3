"""Does a run reach the same numbers whatever happens to it, and does it leave nothing behind?

    python benchmarks/soak.py [--minutes 30] [--seed 0] [--out soak.json]

A small model trains on two ranks, in rounds: under the `deepspeed` launcher, torchrun, or Ray with
two nodes, mirrored to a real MLflow server. The seed draws three faults for each round
(`soak_faults.py`), and the same command is started again until the run is finished. Then all of its
losses and scores must be those of an undisturbed run, bit for bit, and all of its points must be in
MLflow, once, with the right status. No process, temporary file or shared memory may be left, and
the memory and open files of what lives on may not grow. At any difference it exits with code 1.

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
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil
from soak_checks import Curves, curves_of, differences, of_mlflow, send_what_is_missing
from soak_faults import FAULTS, Planned, Round, planned_round
from soak_leaks import Growth, Left, Watcher, family, grown, leaks, look
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

from dpot_scale.tracking.spool import SPOOL, newest_record

INSIDE = "--inside"  # the folder of a soak that runs in its namespaces
RESULT = "soak.json"
MOST_ATTEMPTS = 15
SILENT_SECONDS = 900.0  # without a step, after which an attempt hangs; a busy machine is slow
GRACE_SECONDS = 30.0  # for processes to end
# Two checkpoints are there before the first of these, and the run is far from its end at the last.
FAULTY_STEPS = range(2 * CHECKPOINT_EVERY + 3, STEPS - 2 * CHECKPOINT_EVERY)


@dataclass
class Caused:
    """A fault that was caused."""

    fault: str
    step: int  # that the run had come to
    time: float
    seconds: float | None = None  # until the run was further than it was before


@dataclass
class Outcome:
    """What became of a round."""

    round: Round
    caused: list[Caused] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)  # of its attempts
    made_again: int = 0  # steps
    sent_later: bool = False  # whether MLflow lacked something at the end of the run
    differences: list[str] = field(default_factory=list)


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
    """Train and disturb until the time is over; say what was found."""
    print(f"seed {seed}, {minutes:g} minutes, {STEPS} steps a round", flush=True)
    for place in ("/tmp", "/dev/shm"):
        mount(Path(place), "50%")
    begun = time.monotonic()
    server, watcher = Server(folder), Watcher()
    prepare(folder, server.address)
    expected = undisturbed(folder)
    ray = RayCluster(folder)
    before, outcomes, growths = look(), list[Outcome](), list[Growth]()
    while time.monotonic() < begun + 60 * minutes:
        planned = planned_round(seed, len(outcomes), FAULTY_STEPS)
        training = Training(
            folder, f"{planned.launcher}_{planned.number:03}", planned.launcher, server, ray
        )
        outcome = disturbed(training, planned)
        if outcome.codes[-1] == 0:
            compare(training, expected, server, outcome)
        roots = [os.getpid(), server.process.pid, ray.head.pid, ray.node.pid]
        outcome.differences += left_over(before, roots)
        before = look()
        remove(training)
        outcomes.append(outcome)
        print(line(outcome), flush=True)
        growths = grown(watcher.looks)
        write(folder / RESULT, seed, minutes, outcomes, growths)  # the next may not come to its end
    watcher.close()
    ray.close()
    text, is_sound = summary(outcomes, growths)
    print(text)
    return 0 if is_sound else 1


def undisturbed(folder: Path) -> Curves:
    """Return the curves of a run without a fault."""
    training = Training(folder, "undisturbed", "deepspeed")
    training.start()
    if training.process.wait() != 0:
        raise SystemExit(f"the undisturbed run failed:\n{training.log.read_text()}")
    curves = curves_of(training)
    remove(training)
    return curves


def disturbed(training: Training, planned: Round) -> Outcome:
    """Start a training again and again, with its faults, until it has finished."""
    outcome, waiting = Outcome(planned), deque(planned.faults)
    while not outcome.codes or outcome.codes[-1] != 0:
        if len(outcome.codes) == MOST_ATTEMPTS:
            outcome.differences.append(f"did not finish in {MOST_ATTEMPTS} attempts")
            break
        began = len(outcome.caused)
        training.start()
        code = attempt(training, waiting, outcome)
        outcome.codes.append(code)
        # One that is still there, as after a kill of the launcher alone, refuses the next.
        excused = any(FAULTS[one.fault].ends for one in outcome.caused[max(0, began - 1) :])
        if code != 0 and not excused:
            said = training.log.read_text(errors="replace").strip().splitlines()
            outcome.differences.append(f"ended with {code} without a fault: {said[-1:]}")
    records = recorded_steps(training)
    outcome.made_again = len(records) - STEPS
    for one in outcome.caused:
        one.seconds = further_after(records, one)
    return outcome


def attempt(training: Training, waiting: deque[Planned], outcome: Outcome) -> int:
    """Watch one attempt, and disturb it when that is due; return its exit code."""
    started = moved = time.time()
    last = -1
    while (code := training.process.poll()) is None:
        time.sleep(0.02)
        step, when = progress(training)
        if step != last:
            last, moved = step, time.time()
        if waiting and is_due(waiting[0], step if when > started else -1, time.time() - started):
            planned = waiting.popleft()
            caused = Caused(planned.fault, step, time.time())
            try:
                FAULTS[planned.fault].cause(training, planned)
                outcome.caused.append(caused)
            except (psutil.Error, ProcessLookupError):  # it ended just before
                continue
        if time.time() - moved > SILENT_SECONDS:
            outcome.differences.append(f"made no step in {SILENT_SECONDS:g} s after step {step}")
            training.kill()
    return code


def is_due(planned: Planned, step: int, seconds: float) -> bool:
    """Return whether a fault comes now.

    Args:
        planned: The fault.
        step: That this attempt has recorded; -1 if it has none yet.
        seconds: Since its start.
    """
    if FAULTS[planned.fault].while_starting:
        return seconds >= planned.seconds
    return step >= planned.step


def progress(training: Training) -> tuple[int, float]:
    """Return the step that a run has recorded last, and when."""
    record = newest_record(training.directory / SPOOL, containing="train/loss")
    return (int(record["step"]), record["time"]) if record else (0, 0.0)


def recorded_steps(training: Training) -> list[tuple[int, float]]:
    """Return each step that was recorded, with the time, also those that were made again."""
    spool = training.directory / SPOOL
    lines = spool.read_text().splitlines() if spool.exists() else []
    records = [json.loads(one) for one in lines if "train/loss" in one]
    return [(record["step"], record["time"]) for record in records]


def further_after(records: Sequence[tuple[int, float]], caused: Caused) -> float | None:
    """Return how many seconds after a fault a run was further than before it."""
    later = [when for step, when in records if when > caused.time and step > caused.step]
    return min(later) - caused.time if later else None


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


def line(outcome: Outcome) -> str:
    """Return a round in a line, with its differences below."""
    faults = ", ".join(f"{one.fault} at {one.step}" for one in outcome.caused)
    how = "equal" if not outcome.differences else "DIFFERENT"
    said = "".join(f"\n  {one}" for one in outcome.differences)
    return (
        f"round {outcome.round.number} ({outcome.round.launcher}): {faults}; "
        f"{len(outcome.codes)} attempts, {outcome.made_again} steps made again: {how}{said}"
    )


def summary(outcomes: Sequence[Outcome], growths: Sequence[Growth]) -> tuple[str, bool]:
    """Return the tables of a soak, and whether nothing differed."""
    lines = ["", "| fault | times | s until further, median | most |", "|---|--:|--:|--:|"]
    for fault in FAULTS:
        caused = [one for outcome in outcomes for one in outcome.caused if one.fault == fault]
        seconds = [one.seconds for one in caused if one.seconds is not None]
        times = f"{median(seconds):.1f} | {max(seconds):.1f}" if seconds else "- | -"
        lines.append(f"| {fault} | {len(caused)} | {times} |")
    lines += ["", "| lived on | minutes | MiB, early and late | open files |", "|---|--:|--:|--:|"]
    for growth in sorted(growths, key=lambda one: -one.mib[1]):
        mib, files = (f"{early:.0f}, {late:.0f}" for early, late in (growth.mib, growth.files))
        lines.append(f"| {growth.name} | {growth.minutes:.0f} | {mib} | {files} |")
    wrong = [one for outcome in outcomes for one in outcome.differences]
    wrong += [f"{one.name} grew" for one in growths if one.is_leak]
    caused_in_all = sum(len(outcome.caused) for outcome in outcomes)
    attempts = sum(len(outcome.codes) for outcome in outcomes)
    again = sum(outcome.made_again for outcome in outcomes)
    lines += [
        "",
        f"{len(outcomes)} rounds, {attempts} attempts, {caused_in_all} faults, {again} steps made "
        f"again, {len(wrong)} differences",
        *wrong,
    ]
    return "\n".join(lines), not wrong


def write(
    path: Path,
    seed: int,
    minutes: float,
    outcomes: Sequence[Outcome],
    growths: Sequence[Growth],
) -> None:
    """Write all that was found."""
    found = {
        "seed": seed,
        "minutes": minutes,
        "rounds": [recorded(one) for one in outcomes],
        "lived_on": [one._asdict() | {"is_leak": one.is_leak} for one in growths],
    }
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def recorded(outcome: Outcome) -> dict[str, object]:
    """Return a round as JSON values."""
    planned = outcome.round._asdict()
    planned["faults"] = [fault._asdict() for fault in outcome.round.faults]
    return asdict(outcome) | {"round": planned}


if __name__ == "__main__":
    sys.exit(main())
