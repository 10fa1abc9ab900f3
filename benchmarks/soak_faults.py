"""The kinds of faults that benchmarks/soak.py causes, and how.

A fault is caused at once. What lasts, as an outage, ends some seconds later, in a thread.
"""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from dpot_scale.checkpoints.checkpoint import committed


class Planned(NamedTuple):
    """A fault, and when it comes."""

    fault: str
    step: int  # that an attempt has made before
    rank: int  # that it strikes, if it strikes one
    seconds: float  # that it lasts, or after which it comes


class NotThereError(Exception):
    """What a fault is to strike is not there, or not yet."""


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
        """Start the MLflow server again; it answers some seconds later."""

    def lose_node(self) -> None:
        """Kill the second node of the Ray cluster, with all that runs there."""

    def start_node(self) -> None:
        """Start it again."""

    def filler(self) -> Path:
        """Return a file that takes all of the disk of the run when it grows."""


Ending = Callable[[], object]  # ends what lasts
Cause = Callable[[Disturbed, Planned], Ending | None]


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


def interrupt(run: Disturbed, _: Planned) -> None:
    """Press Ctrl-C: a terminal signals the whole group of the launcher."""
    os.killpg(run.starter().pid, signal.SIGINT)


def pause_rank(run: Disturbed, planned: Planned) -> Ending:
    """Stop a rank for some seconds."""
    rank = _rank(run, planned)
    rank.suspend()
    return rank.resume


def stop_rank(run: Disturbed, planned: Planned) -> None:
    """Stop a rank for good; the others are to find it, end it, and end."""
    _rank(run, planned).suspend()


def pause_server(run: Disturbed, _: Planned) -> Ending:
    """Stop the MLflow server for some seconds."""
    run.signal_server(signal.SIGSTOP)
    return partial(run.signal_server, signal.SIGCONT)


def kill_server(run: Disturbed, _: Planned) -> Ending:
    """Kill the MLflow server, and start it some seconds later."""
    run.signal_server(signal.SIGKILL)
    return run.start_server


def restart_server(run: Disturbed, _: Planned) -> Ending:
    """Ask the MLflow server to end, and start it some seconds later."""
    run.signal_server(signal.SIGTERM)
    return run.start_server


def fill_disk(run: Disturbed, _: Planned) -> Ending:
    """Fill the disk of the run, and free it some seconds later."""
    filler = run.filler()
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
    except OSError:
        pass
    return filler.unlink


def cut_checkpoint(run: Disturbed, _: Planned) -> None:
    """Kill everything, and leave half of a file of the newest checkpoint."""
    run.kill()
    newest = committed(run.checkpoints())[0]
    shard = max(newest.folder.glob("shards/*"), key=lambda path: path.stat().st_size)
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)


def lose_node(run: Disturbed, _: Planned) -> Ending:
    """Kill a node of the cluster; another comes some seconds later."""
    run.lose_node()
    return run.start_node


def _rank(run: Disturbed, planned: Planned) -> psutil.Process:
    ranks = run.ranks()
    if not ranks:
        raise NotThereError
    return ranks[planned.rank % len(ranks)]


class Fault(NamedTuple):
    """A kind of fault."""

    cause: Cause
    ends: bool = True  # whether the attempt may end with an error for it
    keeps: bool = False  # whether no step may be made again for it
    lingers: bool = False  # whether what lives on for a while may refuse the next start
    while_starting: bool = False  # comes some seconds after a start, before its first step


OF_A_LAUNCHER: dict[str, Fault] = {
    "kill a rank": Fault(kill_rank),
    "kill a rank while they start": Fault(kill_rank, while_starting=True),
    "kill the launcher": Fault(kill_starter, keeps=True, lingers=True),
    "kill all": Fault(kill_all),
    "kill all while they start": Fault(kill_all, while_starting=True),
    "SIGTERM to a rank": Fault(terminate_rank, keeps=True),
    "SIGTERM to the launcher": Fault(terminate_starter, keeps=True),
    "Ctrl-C": Fault(interrupt, keeps=True),
    "stop a rank for seconds": Fault(pause_rank, ends=False, keeps=True),
    "stop a rank for good": Fault(stop_rank),
    "stop the server for seconds": Fault(pause_server, ends=False, keeps=True),
    "kill the server": Fault(kill_server, ends=False, keeps=True),
    "restart the server": Fault(restart_server, ends=False, keeps=True),
    "full disk": Fault(fill_disk),
    "cut the newest checkpoint": Fault(cut_checkpoint),
}
OF_RAY: dict[str, Fault] = {
    "kill a Ray worker": Fault(kill_rank),
    "lose a node": Fault(lose_node),
    "kill the driver": Fault(kill_starter, lingers=True),
    "kill the driver while it starts": Fault(kill_starter, lingers=True, while_starting=True),
    "SIGTERM to the driver": Fault(terminate_starter, keeps=True),
    "stop a Ray worker for good": Fault(stop_rank),
}
FAULTS = OF_A_LAUNCHER | OF_RAY
