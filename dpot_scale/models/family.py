"""The interface of a family, by which alone the rest of the package knows a model.

No torch here: plans price models that are never built.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeVar

from dpot_scale.config.engine import EngineConfig
from dpot_scale.config.model import ModelConfig
from dpot_scale.config.strategy import Dtype

if TYPE_CHECKING:
    from dpot_scale.models.forecaster import Forecaster
    from dpot_scale.models.transfer import Adaptation, Fields, State

SpectralDtype = Literal["float32", "bfloat16"]

# The component that holds the blocks, in every family.
BLOCKS = "blocks"
# The backward pass costs two products for each one of the forward.
TRAIN_PASSES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Recompute:
    """Which blocks run a second time in the backward instead of keeping their activations."""

    blocks: Literal["none", "full", "every_k", "selective"] = "none"
    every: int = 2  # every_k only: one block in so many
    backend: Literal["torch", "fairscale"] = "torch"
    offload: bool = False  # fairscale only: what is kept waits in host memory

    @classmethod
    def of(cls, engine: EngineConfig) -> Self:
        """Return what the engine section of a run says."""
        return cls(
            blocks=engine.activation_checkpointing,
            every=engine.recompute_every,
            backend=engine.recompute_backend,
            offload=engine.recompute_offload,
        )

    def repeats(self, index: int) -> bool:
        """Return whether a block runs a second time, as a whole or in part."""
        return self.blocks != "none" and (self.blocks != "every_k" or index % self.every == 0)

    def repeated(self, depth: int) -> int:
        """Return how many of `depth` blocks run a second time."""
        return sum(self.repeats(index) for index in range(depth))


# No block runs a second time.
KEEP_ALL = Recompute()


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters per component. Scaling is fitted on the total and on the blocks."""

    components: Mapping[str, int]

    @property
    def total(self) -> int:
        """Return all parameters."""
        return sum(self.components.values())

    @property
    def blocks(self) -> int:
        """Return the parameters of the blocks."""
        return self.components[BLOCKS]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """FLOPs for one window: 2 x multiply-accumulates of the products, no elementwise work."""

    forward: float  # history frames in, horizon frames out
    recomputed: float  # of what runs a second time in the backward

    @property
    def training(self) -> float:
        """FLOPs of forward and backward: what a training is worth, however it is run."""
        return TRAIN_PASSES * self.forward

    @property
    def computed(self) -> float:
        """FLOPs that a training runs, the recomputation among them."""
        return self.training + self.recomputed


@dataclass(frozen=True, slots=True)
class Matrices:
    """Matrices of one shape."""

    number: int
    rows: int
    columns: int

    @property
    def parameters(self) -> int:
        """Return the parameters of all of them."""
        return self.number * self.rows * self.columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What the memory of a training depends on, before anything is sharded."""

    # In elements.
    parameters: int  # of the whole model
    matrices: int  # those of them that a family names as matrices
    largest_parameter: int
    block: int  # parameters of one block
    block_matrix: int  # the largest parameter of a block
    vector: int  # a bias of the model's width

    # In bytes.
    per_window: int  # what a forward keeps for its backward, for each window
    fixed: int  # what a forward computes from weights and keeps for its backward, for any batch
    end_of_backward: int  # what the last step of a backward allocates


M = TypeVar("M", bound=ModelConfig, contravariant=True)


class Family(Protocol[M]):
    """A kind of model. A family that exists is a line of `config.model.FAMILIES`."""

    @property
    def config(self) -> type[ModelConfig]:
        """The class of its configs, whose `family` defaults to its name."""

    @property
    def components(self) -> Mapping[str, tuple[str, ...]]:
        """How the keys of each component begin in the state dict; `blocks` is one component.

        Every key belongs to one component.
        """

    @property
    def matrices(self) -> tuple[str, ...]:
        """Patterns, as of files, of the names of parameters that are matrices in the blocks.

        Or stacks of matrices, over the first axes. Axes of size 1 may follow the last two.
        """

    @property
    def block(self) -> str:
        """The import path of the class of its blocks, which torch.compile compiles."""

    def parameters(self, model: M) -> ParameterCount:
        """Return the number of parameters of each component, by formula."""

    def matrix_shapes(self, model: M) -> Sequence[Matrices]:
        """Return how many of these matrices there are of each shape, by formula."""

    def flops(self, model: M, recompute: Recompute) -> Flops:
        """Return the FLOPs of one window, by formula."""

    def footprint(
        self, model: M, recompute: Recompute, dtype: Dtype, spectral_dtype: SpectralDtype
    ) -> Footprint:
        """Return what the memory of a training depends on, by formula.

        Args:
            model: The model.
            recompute: Which blocks run a second time.
            dtype: The precision of parameters and activations.
            spectral_dtype: The precision of Fourier transforms, unless `dtype` is higher.
        """

    def network(
        self, model: M, recompute: Recompute, spectral_dtype: SpectralDtype
    ) -> "Forecaster":
        """Build the network, with fresh weights in fp32. This method and the next import torch."""

    def adaptation(self, source: M, target: M, state: "State", fields: "Fields") -> "Adaptation":
        """Return how weights are made to fit another model of the family.

        Args:
            source: The model of the weights.
            target: The model that gets them.
            state: The weights.
            fields: Which channel of the source each channel of the target takes.
        """
