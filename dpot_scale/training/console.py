"""Prints a run: a header, then a live bar on a terminal or plain lines elsewhere."""

from collections.abc import Mapping

from dpot_scale.terminal import Bars
from dpot_scale.tracking import names

BAR = "step"  # its name on the screen


class Console:
    """Prints on the main rank and is silent on the others."""

    def __init__(self, *, is_main: bool, total_steps: int) -> None:
        self._is_main = is_main
        self._total_steps = total_steps
        self._bars = Bars()

    def start(self, header: str, *, first_step: int) -> None:
        """Print the header of a run and, on a terminal, draw its bar."""
        self.say(header)
        if first_step:
            self.say(f"resuming at step {first_step}")
        if self._is_main:
            self._bars.show(BAR, first_step, self._total_steps)

    def progress(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Show one record of metrics: the training line, or a held-out score per dataset."""
        if not self._is_main:
            return
        if names.LEARNING_RATE in metrics and self._bars.are_drawn:
            self._bars.show(BAR, step, self._total_steps, _training_words(metrics))
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
            self._bars.say(line)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._bars.close()


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
    return "  ".join(words)


def _error_words(errors: Mapping[str, float]) -> str:
    return f"{names.REL_L2}  " + "  ".join(f"{name} {error:.4f}" for name, error in errors.items())
