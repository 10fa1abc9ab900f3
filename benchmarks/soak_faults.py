"""Which faults benchmarks/soak.py causes, and when: a function of its seed alone; and how."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from dpot_scale.checkpoints.checkpoint import committed

LAUNCHERS = ("deepspeed", "torchrun")
FAULTS_IN_A_ROUND = 3
RAY_EVERY = 4  # rounds, of which one is a trial of a sweep


class Planned(NamedTuple):
    """A fault, and when it comes."""

    fault: str
    step: int  # that an attempt has made before
    rank: int  # that it strikes, if it strikes one
    seconds: float  # that it lasts, or after which it comes


class Round(NamedTuple):
    """A training, with the faults that disturb it."""

    number: int
    launcher: str  # deepspeed, torchrun or ray
    faults: tuple[Planned, ...]


class Disturbed(Protocol):
    """What faults strike."""

    def ranks(self) -> list[psutil.Process]:
        """Return the ranks that live, by number."""

    def starter(self) -> psutil.Process:
        """Return the launcher of the ranks, or the driver of the sweep."""

    def kill(self) -> None:
        """Kill the starter and all that it has started."""

    def checkpoints(self) -> Path:
        """Return where the checkpoints of the run lie."""

    def signal_server(self, number: signal.Signals) -> None:
        """Send a signal to the MLflow server."""

    def start_server(self) -> None:
        """Start the MLflow server again."""

    def lose_node(self) -> None:
        """Kill the second node of the Ray cluster, with all that runs there."""

    def start_node(self) -> None:
        """Start it again."""

    def filler(self) -> Path:
        """Return a file that takes all of the disk of the run when it grows."""


Cause = Callable[[Disturbed, Planned], None]


def kill_rank(run: Disturbed, planned: Planned) -> None:
    """Kill one rank; the launcher is to end the others."""
    _rank(run, planned).kill()


def kill_starter(run: Disturbed, _: Planned) -> None:
    """Kill the launcher or driver alone."""
    run.starter().kill()


def kill_all(run: Disturbed, _: Planned) -> None:
    """Kill everything at once, as a failing machine does."""
    run.kill()


def terminate_rank(run: Disturbed, planned: Planned) -> None:
    """Ask one rank to end."""
    _rank(run, planned).terminate()


def terminate_starter(run: Disturbed, _: Planned) -> None:
    """Ask the launcher or driver to end, as schedulers do."""
    run.starter().terminate()


def interrupt_starter(run: Disturbed, _: Planned) -> None:
    """Press Ctrl-C."""
    run.starter().send_signal(signal.SIGINT)


def pause_rank(run: Disturbed, planned: Planned) -> None:
    """Stop a rank for some seconds."""
    rank = _rank(run, planned)
    rank.suspend()
    time.sleep(planned.seconds)
    rank.resume()


def stop_rank(run: Disturbed, planned: Planned) -> None:
    """Stop a rank for good; the others are to find it, end it, and end."""
    _rank(run, planned).suspend()


def pause_server(run: Disturbed, planned: Planned) -> None:
    """Stop the MLflow server for some seconds."""
    run.signal_server(signal.SIGSTOP)
    time.sleep(planned.seconds)
    run.signal_server(signal.SIGCONT)


def kill_server(run: Disturbed, planned: Planned) -> None:
    """Kill the MLflow server, and start it some seconds later."""
    run.signal_server(signal.SIGKILL)
    time.sleep(planned.seconds)
    run.start_server()


def restart_server(run: Disturbed, _: Planned) -> None:
    """Restart the MLflow server."""
    run.signal_server(signal.SIGTERM)
    run.start_server()


def fill_disk(run: Disturbed, planned: Planned) -> None:
    """Fill the disk of the run, and free it some seconds later."""
    filler = run.filler()
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
    except OSError:
        pass
    time.sleep(planned.seconds)
    filler.unlink()


def cut_checkpoint(run: Disturbed, _: Planned) -> None:
    """Kill everything, and leave half of a file of the newest checkpoint."""
    run.kill()
    newest = committed(run.checkpoints())[0]
    shard = max(newest.folder.glob("shards/*"), key=lambda path: path.stat().st_size)
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)


def lose_node(run: Disturbed, planned: Planned) -> None:
    """Kill a node of the cluster; another comes some seconds later."""
    run.lose_node()
    time.sleep(planned.seconds)
    run.start_node()


def _rank(run: Disturbed, planned: Planned) -> psutil.Process:
    ranks = run.ranks()
    return ranks[planned.rank % len(ranks)]


class Fault(NamedTuple):
    """A kind of fault."""

    cause: Cause
    ends: bool = True  # whether the attempt may end with an error for it
    while_starting: bool = False  # comes some seconds after the start, at whatever step


OF_A_LAUNCHER: dict[str, Fault] = {
    "kill a rank": Fault(kill_rank),
    "kill the launcher": Fault(kill_starter),
    "kill all": Fault(kill_all),
    "kill all while they start": Fault(kill_all, while_starting=True),
    "SIGTERM to a rank": Fault(terminate_rank),
    "SIGTERM to the launcher": Fault(terminate_starter),
    "Ctrl-C": Fault(interrupt_starter),
    "stop a rank for seconds": Fault(pause_rank, ends=False),
    "stop a rank for good": Fault(stop_rank),
    "stop the server for seconds": Fault(pause_server, ends=False),
    "kill the server": Fault(kill_server, ends=False),
    "restart the server": Fault(restart_server, ends=False),
    "full disk": Fault(fill_disk),
    "cut the newest checkpoint": Fault(cut_checkpoint),
}
OF_RAY: dict[str, Fault] = {
    "kill a Ray worker": Fault(kill_rank),
    "lose a node": Fault(lose_node),
    "kill the driver": Fault(kill_starter),
    "SIGTERM to the driver": Fault(terminate_starter),
    "stop a Ray worker for good": Fault(stop_rank),
}
FAULTS = OF_A_LAUNCHER | OF_RAY


def planned_round(seed: int, number: int, steps: range) -> Round:
    """Return the faults of a round.

    All kinds come once, in an order that the seed draws, before one comes again.

    Args:
        seed: Of the soak.
        number: Of the round, from 0 on.
        steps: At which faults may come.
    """
    on_ray = number % RAY_EVERY == 0
    rays = number // RAY_EVERY + (0 if on_ray else 1)  # rounds on Ray before this one
    begun = (rays if on_ray else number - rays) * FAULTS_IN_A_ROUND
    names = drawn(seed, list(OF_RAY if on_ray else OF_A_LAUNCHER), begun + FAULTS_IN_A_ROUND)
    draw = random.Random(f"{seed} {number}")
    at = sorted(draw.sample(steps, FAULTS_IN_A_ROUND))
    faults = tuple(
        Planned(name, step, draw.randrange(2), round(draw.uniform(1, 6), 1))
        for name, step in zip(names[begun:], at, strict=True)
    )
    return Round(number, "ray" if on_ray else draw.choice(LAUNCHERS), faults)


def drawn(seed: int, names: Sequence[str], count: int) -> list[str]:
    """Return the first names of a stack of cards that is shuffled again whenever it is used up."""
    draw, found = random.Random(f"{seed} {names[0]}"), list[str]()
    while len(found) < count:
        found += draw.sample(names, len(names))
    return found[:count]
