"""The interface of an engine, by which the loop, the evaluation and the probes know it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from dpot_scale.engine.state import Snapshot, StoredState
from dpot_scale.errors import CheckpointError
from dpot_scale.models.forecaster import Forecast


@dataclass(frozen=True, slots=True)
class Rates:
    """The numbers of one update that change from step to step."""

    lr: float  # of Adam
    betas: tuple[float, float]
    muon_lr: float


class Update(NamedTuple):
    """The outcome of a step, kept on the device so that nothing waits. Equal on every rank."""

    grad_norm: Tensor  # of the global gradient before clipping
    applied: Tensor  # bool; False: that norm is not finite, and no weight or moment has changed


class Engine(Protocol):
    """A model that trains, spread over the ranks. Every method is a collective."""

    def __call__(self, frames_BTCs: Tensor, conditions_BK: Tensor | None = None, /) -> Forecast:
        """Forecast, as the model does."""

    def train(self) -> None:
        """Put the model in training mode."""

    def eval(self) -> None:
        """Put the model in evaluation mode."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a micro-batch's mean loss. Call it accumulation_steps times.

        The update uses the mean over micro-batches and ranks: that of the global batch.
        """

    def step(self, rates: Rates) -> Update:
        """Update the weights, unless a loss or the global gradient is not finite."""

    def snapshot(self) -> Snapshot | None:
        """Return what this rank keeps of the training state, as views of it.

        None where only `save_shards` reaches it.
        """

    def load_state(self, stored: StoredState) -> None:
        """Continue from a training state that any engine has saved on any number of ranks.

        Raises:
            CheckpointError: the names or shapes are not this model's.
        """

    def save_shards(self, folder: Path) -> None:
        """Write this rank's part of the training state under `folder`, where it has no snapshot.

        Raises:
            DiskError: this rank cannot write its part; the others may have written theirs.
        """

    def load_shards(self, folder: Path) -> None:
        """Continue from what an engine of this kind wrote by itself on the same number of ranks.

        Raises:
            CheckpointError: another kind of engine wrote it.
        """

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the fp32 master of each parameter, whole, on the CPU.

        Each is gathered when it is asked for, so every rank must go through all of them.
        """

    def load_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Set all parameters from whole fp32 tensors, the same on every rank.

        Raises:
            CheckpointError: the names or shapes are not this model's.
        """


def with_nan_gradient(loss: Tensor) -> Tensor:
    """Return a loss whose gradient is NaN where the loss is not finite.

    The norm of an infinite error has a gradient of zero, which the other ranks would apply.
    """
    return loss * (1 + 0 * loss.detach())


def require_fit(
    given: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse weights that are not those of a model.

    Args:
        given: The shapes of the weights.
        shapes: The shapes of the parameters of the model.

    Raises:
        CheckpointError: names or shapes differ.
    """
    for name in sorted(shapes.keys() | given.keys()):
        found = given.get(name)
        if found != shapes.get(name):
            raise CheckpointError(
                f"the weights do not fit the model: {name} is {found or 'absent'} in them and "
                f"{shapes.get(name) or 'absent'} in the model"
            )


def shapes_in(parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors."""
    return {name: tuple(value.shape) for name, value in parameters.items()}
