"""How much memory of the host does a save take: at once, by a copy, and after one that failed?

Each kind of save has a process of its own, which trains a model for one step and then saves it.
The system counts the peak of its memory from there on (VmHWM), and what it holds when all saves
have ended; the C library keeps some of that for what comes next. Python's collector of cycles is
off: it comes late, or not at all. The disk is a real one of tmpfs, which root may mount; where a
save has to fail, it holds half of the state.

    python benchmarks/checkpoint_memory.py [--size S] [--strategy zero3_fp32]
"""

import argparse
import contextlib
import ctypes
import gc
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checkpoint_cost import ONE_WINDOW, trained

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.load import load_run
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.engine.engine import Engine
from dpot_scale.engine.runtime import start_world
from dpot_scale.errors import DiskError

MIB = 2**20


class Kind(NamedTuple):
    """What is saved one after the other."""

    copied: bool
    fails: tuple[bool, ...]  # each save


KINDS = {
    "at once": Kind(False, (False,)),
    "at once, after one that failed": Kind(False, (True, False)),
    "a copy": Kind(True, (False,)),
    "a copy, after another one": Kind(True, (False, False)),
    "a copy that fails": Kind(True, (True,)),
    "a copy, after one that failed": Kind(True, (True, False)),
}


def main() -> None:
    """Print a row per kind of save, each from a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="S")
    parser.add_argument("--strategy", default="zero3_fp32")
    parser.add_argument("--kind", choices=KINDS, help="measure this one, in this process")
    args = parser.parse_args()
    if args.kind:
        print(row(args.size, args.strategy, args.kind))
        return
    print("| save | state MiB | peak MiB | held when it has ended | of that in use |")
    print("|---|--:|--:|--:|--:|")
    for kind in KINDS:
        command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(ended.stdout.splitlines()[-1], flush=True)


def row(size: str, strategy: str, kind: str) -> str:
    """Return the figures of a kind of save, beyond the memory of a training that saves nothing."""
    world = start_world()
    options = [f"model.size={size}", f"engine.deepspeed={strategy}", "optim.kind=adam"]
    config = load_run("paper_ti", options).model_copy(update={"batch": ONE_WINDOW})
    engine = trained(config, world)
    state = engine.snapshot()
    assert state is not None
    of_state = state.bytes / MIB
    gc.collect()
    gc.disable()
    copied, fails = KINDS[kind]
    with disk() as folder:
        saving = CheckpointConfig(copy_gib=100 if copied else 0)
        store = CheckpointStore(folder / "saved", config=saving, identity="x", world=world)
        before = start_counting()
        for step, one_fails in enumerate(fails, start=1):
            resize(folder, int(of_state * (0.5 if one_fails else 4)))
            if not saved(store, engine, step) and not one_fails:  # it was said of the one before
                saved(store, engine, step)
        peak, held = (counted(name) - before for name in ("VmHWM", "VmRSS"))
        used = start_counting() - before
    return f"| {kind} | {of_state:,.0f} | {peak:,.0f} | {held:,.0f} | {used:,.0f} |"


def saved(store: CheckpointStore, engine: Engine, step: int) -> bool:
    """Save, and wait until a thread has written a copy; return whether no error was raised.

    As in training, what went wrong in a thread is raised by the next save.
    """
    try:
        store.save(engine, TrainState(step=step))
    except DiskError:
        return False
    for thread in threading.enumerate():
        if thread.name == "save":
            thread.join()
    return True


@contextlib.contextmanager
def disk() -> Iterator[Path]:
    """Yield a folder on a disk of its own."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def resize(folder: Path, mib: int) -> None:
    """Let a disk hold so much."""
    subprocess.run(["mount", "-o", f"remount,size={mib}m", str(folder)], check=True)


def start_counting() -> float:
    """Let the peak begin anew; return the memory that is held, without what training left free."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return counted("VmRSS")


def counted(name: str) -> float:
    """Return what the system counts for this process, in MiB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
