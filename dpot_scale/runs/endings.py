"""How a run ends before its last step: the errors, and their sentences."""

import os

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.config.run import RunConfig
from dpot_scale.errors import UserError, shortened, this_command
from dpot_scale.training.loop import Trouble
from dpot_scale.training.watch import Stop

LESS_MEMORY = (
    "set batch.micro_batch to a smaller number or auto, engine.activation_checkpointing=full, or "
    "an engine.deepspeed that shards more, as zero3_bf16, or keeps state in the memory of a host "
    "(zero3_bf16_offload)"
)


class TrainingStoppedError(UserError):
    """The run was told to end before its last step, and saved; starting it again continues it."""

    def __init__(self, sentence: str, stop: str = "told") -> None:
        super().__init__(sentence)
        self.stop = stop


class TrainingPreemptedError(TrainingStoppedError):
    """The machine of a rank is about to be taken away; the run saved before."""


class TrainingDivergedError(UserError):
    """The loss or the gradient is not finite, step after step, or out of all proportion."""

    stop = "diverged"


def stopped(stop: Stop, how: str, config: RunConfig) -> TrainingStoppedError:
    """Return the error of a run that was told to end, and how far it came."""
    kind = TrainingPreemptedError if stop is Stop.PREEMPTED else TrainingStoppedError
    return kind(stopped_words(stop, how, config), stop.tag())


def stopped_words(stop: Stop, how: str, config: RunConfig) -> str:
    """Return the sentence of that error."""
    again = f"start it again to continue{_how_to_start()}"
    return f"run {config.name} was stopped {stop.words()} {how}; {again}"


def diverged(
    trouble: Trouble, where: str, state: TrainState, config: RunConfig
) -> TrainingDivergedError:
    """Return the error of a run that diverged once more than it may, and what may help."""
    clipping = "a lower " if config.optim.gradient_clipping else ""
    of_muon = " and optim.muon_lr" if config.optim.kind == "muon" else ""
    left = "" if trouble.of_spike else ", so the weights were left as they were"
    return TrainingDivergedError(
        f"run {config.name} diverged at step {state.step} of {config.steps}: {trouble.words}, "
        f"{where}{left}; start another `name` with what may help: a lower optim.lr{of_muon}, "
        f"{clipping}optim.gradient_clipping, or an engine.deepspeed of another precision"
    )


def _how_to_start() -> str:
    """Return the command of this process; nothing where a launcher wrote it."""
    return "" if "RANK" in os.environ else f": {shortened(this_command())}"
