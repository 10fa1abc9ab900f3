"""A rank of a run that does what a case says, while its peer waits for it in a collective call."""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from dpot_scale.engine.peers import lost_peers_named
from dpot_scale.engine.runtime import any_rank, join_ranks
from dpot_scale.errors import exits_cleanly
from dpot_scale.runs.pulse import Pulse
from dpot_scale.runs.signs import speak
from dpot_scale.training.watch import sigterm_interrupts


def run(
    folder: Path, rank: int, port: int, case: str, minutes: float | None, patience: float
) -> None:
    """Be a rank of two in a process of its own.

    Args:
        folder: That of the run; what the rank prints goes there.
        rank: 0 or 1.
        port: Where the ranks meet.
        case: What rank 1 does, once both are there.
        minutes: `limits.hang`.
        patience: Seconds to wait in a collective call.
    """
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    sys.exit(_train(folder, case, minutes, patience))


@exits_cleanly
def _train(folder: Path, case: str, minutes: float | None, patience: float) -> int:
    world = join_ranks(timedelta(seconds=patience))
    stopped = sigterm_interrupts(f"rank {world.rank} was stopped")
    with stopped, lost_peers_named(world.patience), Pulse(folder, world, minutes) as pulse:
        if case == "sleeps, and nothing can be said":
            _lose_all_words(pulse)
        any_rank(True, world)
        (folder / f"{world.rank}.ready").touch()
        if not world.is_main:
            match case:
                case "reads":
                    os.read(os.pipe()[0], 1)  # never ends, as a read from storage that is gone
                case "is slow":
                    _take(60 * 2.5 * (minutes or 0))
                case "ends" | "ends while nobody asks":
                    os._exit(3)
                case "sleeps" | "sleeps, and nothing can be said":
                    time.sleep(600)
        elif case in {"ends while nobody asks", "is asked"}:
            time.sleep(600)
        any_rank(True, world)
    sys.stdout.write("ended\n")
    sys.stdout.flush()
    return 0


def _lose_all_words(pulse: Pulse) -> None:
    """Let nobody read what is said, and nothing take what is recorded."""

    def last_words(verdict: str) -> None:
        speak(verdict)
        raise RuntimeError("nobody takes it")

    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    pulse.last_words = last_words


def _take(seconds: float) -> None:
    """Execute one thing after the other."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))
        time.sleep(0.05)
        max(range(1000))
        time.sleep(0.05)
