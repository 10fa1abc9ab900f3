"""Finds ranks that hang: a thread of each shows that its rank is alive, and where it is.

A rank is given up where nothing is heard of it for `limits.hang` minutes: it was stopped, or its
machine is gone. The attempt is given up where no rank moves on for so long: one is stuck, and the
others wait for it. Whatever is slow, as a compilation, an evaluation or a save, moves on: the stack
of a rank changes, although no step ends.

The main rank judges all ranks, the others judge the main rank. Each that learns that the attempt is
given up writes its stacks and ends its process: no collective call would ever return.
"""

import contextlib
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dpot_scale.engine.collectives import from_main, gathered, on_every_rank
from dpot_scale.engine.runtime import World
from dpot_scale.errors import USER_ERROR_EXIT_CODE, LostPeerError, UserError
from dpot_scale.processes import start_time, this_place
from dpot_scale.runs.hangs import Hangs
from dpot_scale.runs.signs import (
    FOLDER,
    LONGEST,
    Sign,
    hear_sign,
    next_attempt,
    read_sign,
    speak,
    write_sign,
)
from dpot_scale.runs.stacks import (
    Place,
    dump_stacks,
    forget_stacks,
    has_dumped,
    join_stacks,
    stacks_file,
)
from dpot_scale.training.launchers import Launchers
from dpot_scale.training.slowest import Waits

LOOK_SECONDS = 0.1  # between two looks at the own stack, on average
MOST_SECONDS = 5.0  # between two signs; at most a twentieth of the limit
# A process that looks after so many signs' time, and no sooner than that, was stopped itself.
LOOKS_MISSED, LEAST_MISSED_SECONDS = 10, 5.0
ROLL_CALL = 3  # signs in which ranks write their stacks before one of them joins these
LINGER_SECONDS = 10.0  # for which the others wait for the one that speaks


class Pulse:
    """The signs of this rank, and what it makes of those of others. Collective.

    Args:
        directory: The folder of the run, which all ranks see.
        world: The ranks.
        minutes: `limits.hang`; None: nobody is given up.

    Attributes:
        waits: How much of its time this rank waits for the others.
        last_words: Called before a process ends that speaks for all, with a word that says why, and
            behind ": " a sentence.
    """

    def __init__(self, directory: Path, world: World, minutes: float | None) -> None:
        self.waits = Waits()
        self.last_words: Callable[[str], None] = speak
        self._directory = directory
        limit = None if minutes is None else 60 * minutes
        self._every = min(MOST_SECONDS, (limit or MOST_SECONDS * 20) / 20)
        self._place = Place(threading.get_ident())
        self._launchers = Launchers()
        self._closing = threading.Event()

        self._sign = Sign(
            attempt=from_main(lambda: _begin(directory), world, directory / FOLDER),
            rank=world.rank,
            place=this_place(),
            pid=os.getpid(),
            started=start_time("self"),
        )
        on_every_rank(lambda: write_sign(directory, self._sign), world, directory / FOLDER)
        self._beaten = time.monotonic()
        self._signs = gathered(self._sign, world)
        watched = range(world.world_size) if world.is_main else (0,)
        self._hangs = Hangs(
            {rank: self._signs[rank] for rank in watched if rank != world.rank},
            limit,
            max(LOOKS_MISSED * self._every, LEAST_MISSED_SECONDS),
            stacks_file(directory, self._sign.attempt),
            self._beaten,
        )
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Pulse":
        """Return the pulse, which ends with the block; also with one inside another."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End the thread; say that this rank has come to its end, if the others come to it too."""
        self._closing.set()
        self._thread.join()  # for ever, where the attempt is being given up
        together = isinstance(error, UserError) and not isinstance(error, LostPeerError)
        if error is None or together:
            self._beat(is_closed=True)

    def compiles(self) -> bool:
        """Return whether this rank was seen in torch.compile when it was looked at last."""
        return self._place.compiles

    def _run(self) -> None:
        # Looks in time with what a rank does would find it at one place again and again.
        chance = random.Random()  # of its own: no number of a run depends on it
        while not self._closing.wait(LOOK_SECONDS * chance.uniform(0.5, 1.5)):
            now = time.monotonic()
            has_moved = self._place.has_changed()
            self._hangs.look(now, has_moved=has_moved)
            self._sign = replace(self._sign, moves=self._sign.moves + has_moved)
            self.waits.note(self._place.waits)
            is_orphaned = self._launchers.are_gone()
            if is_orphaned > self._sign.is_orphaned or now - self._beaten >= self._every:
                self._beaten = now
                self._beat(is_orphaned=is_orphaned)
                self._judge(now)

    def _beat(self, **changes: object) -> None:
        one = self._place
        place = {"at": one.at, "waits": one.waits, "compiles": one.compiles}
        self._sign = replace(self._sign, beats=self._sign.beats + 1, **place, **changes)  # type: ignore[arg-type]
        with contextlib.suppress(OSError):  # a disk in need is no reason to end
            write_sign(self._directory, self._sign)

    def _judge(self, now: float) -> None:
        """Look at the signs of others; give the attempt up if there is a reason."""
        try:
            for rank in self._hangs.watched:
                self._hangs.hear(rank, hear_sign(self._directory, rank), now)
        except OSError:  # this machine lacks memory or open files
            self._hangs.forgive(now)
            return
        signs = self._hangs.signs
        if any(sign.attempt > self._sign.attempt for sign in signs):
            self._end_replaced()
        known = next((sign.verdict for sign in signs if sign.verdict), None)
        verdict = known or self._hangs.verdict(self._sign, now)
        if verdict is not None and not self._closing.is_set():
            self._end(verdict)

    def _end_replaced(self) -> None:
        """End this rank, as the run was started again without it."""
        try:
            speak(f"failed: the run was started again without {self._sign.who}, which ends")
        finally:
            os._exit(USER_ERROR_EXIT_CODE)

    def _end(self, verdict: str) -> None:
        """End this rank, whatever happens while it says why."""
        try:
            self._give_up(verdict)
        except Exception:
            with contextlib.suppress(OSError):
                traceback.print_exc()
        finally:
            os._exit(USER_ERROR_EXIT_CODE)

    def _give_up(self, verdict: str) -> None:
        """Write the stacks of this rank; one rank joins them and speaks. What is stopped dies."""
        attempt, mine = self._sign.attempt, self._sign.rank
        self._beat(verdict=verdict[:LONGEST])
        is_hang = not verdict.startswith(LostPeerError.stop)
        if is_hang:
            with contextlib.suppress(OSError):
                dump_stacks(self._directory, attempt, mine)
            time.sleep(ROLL_CALL * self._every)
        ranks = range(len(self._signs))
        newest = [read_sign(self._directory, rank) or self._signs[rank] for rank in ranks]
        here = [sign.rank for sign in newest if not _is_gone(sign)]
        if is_hang:
            here = [rank for rank in ranks if has_dumped(self._directory, attempt, rank)]
        try:
            if mine == min(here, default=mine):
                with contextlib.suppress(OSError):
                    if is_hang:
                        join_stacks(self._directory, newest, verdict.partition(": ")[2])
                self.last_words(verdict)
            else:
                time.sleep(LINGER_SECONDS)
        finally:
            for sign in newest:
                # Stopped, it would hold the lock of the run, and train on when it is continued.
                is_lost = sign.rank not in here and sign.rank != mine and sign.attempt == attempt
                with contextlib.suppress(OSError):
                    if is_lost and sign.is_here:
                        os.kill(sign.pid, signal.SIGKILL)


def _is_gone(sign: Sign) -> bool:
    """Return whether a rank is known to have ended."""
    try:
        return sign.is_gone
    except OSError:  # this machine lacks memory or open files
        return False


def _begin(directory: Path) -> int:
    (directory / FOLDER).mkdir(exist_ok=True)
    forget_stacks(directory)
    return next_attempt(directory)
