"""The kinds of faults that benchmarks/soak.py causes, and how.

A fault is caused at once. What lasts, as an outage, ends some seconds later, in a thread.
"""

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import psutil
from soak_runs import Training

from dpot_scale.checkpoints.checkpoint import committed
from dpot_scale.config.places import MARKER

DAMAGED_DATA = "damaged data"  # whose windows are replaced


class Planned(NamedTuple):
    """A fault, and when it comes."""

    fault: str
    step: int  # that an attempt has made before
    rank: int  # that it strikes, if it strikes one
    seconds: float  # that it lasts, or after which it comes


class NotThereError(Exception):
    """What a fault is to strike is not there, or not yet."""


Ending = Callable[[], object]  # ends what lasts
Cause = Callable[[Training, Planned], Ending | None]


def kill_rank(run: Training, planned: Planned) -> None:
    """Kill one rank; the launcher is to end the others."""
    _rank(run, planned).kill()


def kill_starter(run: Training, _: Planned) -> None:
    """Kill the launcher or driver alone."""
    run.starter().kill()


def kill_all(run: Training, _: Planned) -> None:
    """Kill everything at once, as a failing machine does."""
    run.kill()


def terminate_rank(run: Training, planned: Planned) -> None:
    """Ask one rank to end."""
    _rank(run, planned).terminate()


def terminate_starter(run: Training, _: Planned) -> None:
    """Ask the launcher or driver to end, as schedulers do."""
    run.starter().terminate()


def interrupt(run: Training, _: Planned) -> None:
    """Press Ctrl-C: a terminal signals the whole group of the launcher."""
    os.killpg(run.starter().pid, signal.SIGINT)


def pause_rank(run: Training, planned: Planned) -> Ending:
    """Stop a rank for some seconds."""
    rank = _rank(run, planned)
    rank.suspend()
    return rank.resume


def stop_rank(run: Training, planned: Planned) -> None:
    """Stop a rank for good; the others are to find it, end it, and end."""
    _rank(run, planned).suspend()


def pause_server(run: Training, _: Planned) -> Ending:
    """Stop the MLflow server for some seconds."""
    server = run.around.mlflow
    server.signal(signal.SIGSTOP)
    return partial(server.signal, signal.SIGCONT)


def kill_server(run: Training, _: Planned) -> Ending:
    """Kill the MLflow server, and start it some seconds later."""
    run.around.mlflow.signal(signal.SIGKILL)
    return run.around.mlflow.start


def restart_server(run: Training, _: Planned) -> Ending:
    """Ask the MLflow server to end, and start it some seconds later."""
    run.around.mlflow.signal(signal.SIGTERM)
    return run.around.mlflow.start


def fill_disk(run: Training, _: Planned) -> Ending:
    """Fill the disk of the run, and free it some seconds later."""
    filler = run.filler()
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
    except OSError:
        pass
    return filler.unlink


def cut_checkpoint(run: Training, _: Planned) -> None:
    """Kill everything, and leave half of a file of the newest checkpoint."""
    run.kill()
    newest = committed(run.checkpoints())[0]
    shard = max(newest.folder.glob("shards/*"), key=lambda path: path.stat().st_size)
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)


def lose_node(run: Training, _: Planned) -> Ending:
    """Kill a node of the cluster; another comes some seconds later."""
    run.around.ray.lose_node()
    return run.around.ray.start_node


def silence_archive(run: Training, _: Planned) -> Ending:
    """Let the archive answer nothing."""
    run.around.archive.gate.stall()
    return run.around.archive.gate.go_on


def shut_archive(run: Training, _: Planned) -> Ending:
    """Let the archive refuse all connections."""
    run.around.archive.gate.shut()
    return run.around.archive.gate.open


def cut_uploads(run: Training, _: Planned) -> Ending:
    """Cut each upload of a shard."""
    run.around.archive.gate.cut()
    return run.around.archive.gate.mend


def lose_disk(run: Training, _: Planned) -> None:
    """Kill everything, and remove all that the run has on its disk; the archive has it."""
    archive = run.around.archive
    is_there = any(name.endswith(MARKER) for name in archive.names(run.archive_url))
    if archive.gate.is_disturbed or not is_there:
        raise NotThereError
    run.kill()
    run.lose_disk()


def take_data_away(run: Training, _: Planned) -> Ending:
    """Let the storage of the datasets fail for some seconds."""
    run.around.data.take_away()
    return run.around.data.mend


def damage_data(run: Training, _: Planned) -> Ending:
    """Damage some windows, and mend them some seconds later."""
    run.around.data.damage()
    return run.around.data.mend


def _rank(run: Training, planned: Planned) -> psutil.Process:
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
    times: float = 1.0  # longer than others


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
    "silent archive": Fault(silence_archive, ends=False, keeps=True, times=10),
    "archive that refuses": Fault(shut_archive, ends=False, keeps=True, times=5),
    "cut uploads": Fault(cut_uploads, ends=False, keeps=True, times=5),
    "lose the disk": Fault(lose_disk),
    "storage of the data away": Fault(take_data_away, ends=False, keeps=True),
    DAMAGED_DATA: Fault(damage_data, ends=False, keeps=True),
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
