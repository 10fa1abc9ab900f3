"""Prints a run: a header, then a live bar on a terminal or plain lines elsewhere."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

from dpot_scale.terminal import SILENT_SECONDS, Bars
from dpot_scale.tracking import names

BAR = "step"  # its name on the screen
LOOK_SECONDS = 1.0
SHOWN_SPREAD = 0.25  # of the times of the ranks: above it one of them holds up the others

Doing = Literal["trains", "evaluates", "saves"]


class Console:
    """Prints on the main rank and is silent on the others.

    A thread of it moves the bar at each second, or says what the run does where nothing else is
    said for a while: steps, evaluations and saves may take minutes, and so may a compilation.

    Args:
        is_main: Whether this is the main rank.
        total_steps: Those of the run.
        compiles: Says whether this rank compiles its model now.
    """

    def __init__(
        self, *, is_main: bool, total_steps: int, compiles: Callable[[], bool] = lambda: False
    ) -> None:
        self._is_main = is_main
        self._total_steps = total_steps
        self._bars = Bars()
        self._step, self._doing = 0, "trains"
        self._compiles = compiles
        self._words = ""  # of the newest record, beside the bar
        self._said = time.monotonic()  # when the newest line was
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_telling, name="console", daemon=True)

    def start(self, header: str, *, first_step: int) -> None:
        """Print the header of a run and, on a terminal, draw its bar."""
        self.say(header)
        if first_step:
            self.say(f"resuming at step {first_step}")
        self._step = first_step
        if self._is_main:
            self._bars.show(BAR, first_step, self._total_steps)
            self._thread.start()

    def at(self, step: int, doing: Doing = "trains") -> None:
        """Note how far the run is and what it does now; it costs nothing."""
        self._step, self._doing = step, doing

    def progress(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Show one record of metrics: the training line, or a held-out score per dataset."""
        if not self._is_main:
            return
        if names.LEARNING_RATE in metrics and self._bars.are_drawn:
            self._words = _training_words(metrics)
            self._bars.show(BAR, step, self._total_steps, self._words)
        elif names.LEARNING_RATE in metrics:
            self.say(f"step {step:>6}/{self._total_steps}  {_training_words(metrics)}")
        else:
            for split, words in (("held-out", "test"), ("valid", "valid")):
                errors = names.held_out_errors(metrics, words)
                if errors:
                    self.say(f"step {step:>6}/{self._total_steps}  {split} {_error_words(errors)}")

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        if self._is_main:
            self._said = time.monotonic()
            self._bars.say(line)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bars.close()

    def _keep_telling(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            doing = "compiles" if self._compiles() else self._doing
            if self._bars.are_drawn:
                words = self._words if doing == "trains" else doing
                self._bars.show(BAR, self._step, self._total_steps, words)
            elif time.monotonic() - self._said >= SILENT_SECONDS:
                self.say(f"step {self._step:>6}/{self._total_steps}  {doing}")


def _training_words(metrics: Mapping[str, float]) -> str:
    words = [
        f"lr {metrics[names.LEARNING_RATE]:.2e}",
        f"{metrics[names.WINDOWS_PER_SECOND]:.1f} windows/s",
    ]
    if names.LOSS in metrics:
        words.insert(0, f"loss {metrics[names.LOSS]:.4f}")
        words.insert(2, f"grad {metrics[names.GRADIENT_NORM]:.2f}")
    if skipped := metrics[names.SKIPPED_STEPS]:
        words.append(f"{skipped:.0f} skipped")
    if (spread := metrics.get(names.RANK_SPREAD, 0.0)) >= SHOWN_SPREAD:
        words.append(f"waits for rank {metrics[names.SLOWEST_RANK]:.0f} ({spread:.0%})")
    return "  ".join(words)


def _error_words(errors: Mapping[str, float]) -> str:
    return f"{names.REL_L2}  " + "  ".join(f"{name} {error:.4f}" for name, error in errors.items())
