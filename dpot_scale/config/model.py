"""Which model: a section of a run."""

from typing import Literal

from dpot_scale.config.base import PositiveInt, Section

SizeName = Literal["debug", "Ti", "S", "M", "L", "H"]


class ModelConfig(Section):
    """Which DPOT: a named size, each dimension of which can be set apart.

    `models/dpot/sizes.py` holds the sizes and turns this into an `Architecture`.
    """

    size: SizeName = "Ti"
    width: PositiveInt | None = None
    depth: PositiveInt | None = None
    heads: PositiveInt | None = None
    mlp_ratio: PositiveInt | None = None
    out_layer_dim: PositiveInt | None = None
    space_dims: Literal[2, 3] = 2
    grid: PositiveInt = 128  # points per axis; every dataset is resized to it
    patch: PositiveInt = 8
    channels: PositiveInt = 4  # fields in and out; datasets with fewer are padded
    history: PositiveInt = 10  # frames in
    horizon: PositiveInt = 1  # frames predicted per forward
    modes: PositiveInt = 32  # Fourier modes kept per axis (3D: 8 at most on the last)
    num_datasets: PositiveInt = 12  # classes of the dataset head
    time_aggregation: Literal["exp_mlp", "mlp"] = "exp_mlp"
    normalize: bool = False
