"""Which model: a section of a run."""

from typing import Literal

from dpot_scale.config.base import PositiveInt, Section

SizeName = Literal["debug", "Ti", "S", "M", "L", "H"]


class ModelConfig(Section):
    """Which DPOT: a named size, each dimension of which can be set apart.

    `models/dpot/sizes.py` holds the sizes and turns this into an `Architecture`.
    """

    size: SizeName = "Ti"
    """Named size, which sets the five dimensions below unless they are given."""
    width: PositiveInt | None = None
    """Latent channels."""
    depth: PositiveInt | None = None
    """Blocks."""
    heads: PositiveInt | None = None
    """Groups of channels that the Fourier layer mixes apart."""
    mlp_ratio: PositiveInt | None = None
    """Hidden channels of a block's MLP / width."""
    out_layer_dim: PositiveInt | None = None
    """Channels of the output layer, at full resolution."""
    space_dims: Literal[2, 3] = 2
    """Axes of space."""
    grid: PositiveInt = 128
    """Points per axis; every dataset is resized to it."""
    patch: PositiveInt = 8
    """Points per latent point, along each axis."""
    channels: PositiveInt = 4
    """Fields in and out; datasets with fewer are padded."""
    history: PositiveInt = 10
    """Frames that the model sees."""
    horizon: PositiveInt = 1
    """Frames that the model predicts per forward."""
    modes: PositiveInt = 32
    """Fourier modes kept per axis; in 3D at most 8 on the last one."""
    num_datasets: PositiveInt = 12
    """Classes of the head that tells datasets apart."""
    time_aggregation: Literal["exp_mlp", "mlp"] = "exp_mlp"
    """How history frames become one. exp_mlp: with learned frequencies in time. mlp: without."""
    normalize: bool = False
    """Whether each sample is standardised per channel before the blocks and restored after them."""
