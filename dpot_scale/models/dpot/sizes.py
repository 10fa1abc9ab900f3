"""The named sizes and the complete description of one DPOT. No torch here."""

from dataclasses import dataclass
from typing import Literal

from dpot_scale.config.model import ModelConfig, SizeName
from dpot_scale.errors import ConfigError

NORM_GROUPS = 8
# In 3D the last axis keeps at most this many Fourier modes (PAPER section 1).
LAST_AXIS_MODES_3D = 8
# Up to this many latent points per axis of a 2D field its Fourier transform is two products with
# small matrices, which need no complex numbers. Mixer, forward and backward, against torch.fft
# (2-core EPYC): 0.6 of its time at 8 points, 0.8 (fp32) and 0.6 (bf16) at 16, 0.9 and 0.5 at 32.
MATRIX_POINTS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What a name like Ti stands for."""

    width: int
    depth: int
    heads: int
    mlp_ratio: int
    out_layer_dim: int


# PAPER section 1; `debug` is ours. L has 16 heads, as the released weights have.
SIZES: dict[SizeName, Size] = {
    "debug": Size(width=64, depth=4, heads=4, mlp_ratio=1, out_layer_dim=16),
    "Ti": Size(width=512, depth=4, heads=4, mlp_ratio=1, out_layer_dim=32),
    "S": Size(width=1024, depth=6, heads=8, mlp_ratio=1, out_layer_dim=32),
    "M": Size(width=1024, depth=12, heads=8, mlp_ratio=4, out_layer_dim=32),
    "L": Size(width=1536, depth=24, heads=16, mlp_ratio=4, out_layer_dim=128),
    "H": Size(width=2048, depth=27, heads=8, mlp_ratio=4, out_layer_dim=128),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Every dimension of one DPOT: what decides the shape of each of its parameters.

    Raises:
        ConfigError: the dimensions do not divide as the model needs.
    """

    width: int  # latent channels, E
    depth: int  # blocks
    heads: int  # diagonal blocks of the spectral product
    mlp_ratio: int  # hidden channels of a block's MLP / width
    out_layer_dim: int
    space_dims: int  # 2 or 3
    grid: int  # points per axis
    patch: int  # points per latent point, per axis
    channels: int  # fields in and out
    history: int  # frames in
    horizon: int  # frames out
    modes: int  # Fourier modes kept per axis
    num_datasets: int
    time_aggregation: Literal["exp_mlp", "mlp"]
    normalize: bool

    def __post_init__(self) -> None:
        for part, whole, of in (
            ("heads", "width", self.heads),
            ("patch", "grid", self.patch),
        ):
            if getattr(self, whole) % of:
                raise ConfigError(
                    f"model.{part}={of} does not divide model.{whole}={getattr(self, whole)}"
                )
        if self.width % NORM_GROUPS:
            raise ConfigError(
                f"model.width={self.width} is not a multiple of {NORM_GROUPS}, "
                "the number of normalisation groups"
            )

    @property
    def latent_grid(self) -> int:
        """Latent points per axis."""
        return self.grid // self.patch

    @property
    def coordinates(self) -> int:
        """Channels that say where and when a point is: the space axes and time."""
        return self.space_dims + 1

    @property
    def patch_width(self) -> int:
        """Channels between the two layers of the patch embedding."""
        return self.channels * self.patch + self.coordinates

    @property
    def kept_modes(self) -> tuple[int, ...]:
        """Fourier modes kept on each axis of the half spectrum, the last axis being halved."""
        half = self.latent_grid // 2 + 1
        last = min(self.modes, half)
        if self.space_dims == 3:
            # The published 3D model bounds its last axis by a constant, not by `modes`.
            last = min(LAST_AXIS_MODES_3D, half)
        return (min(self.modes, self.latent_grid),) * (self.space_dims - 1) + (last,)


def architecture(config: ModelConfig) -> Architecture:
    """Return the architecture a model config describes: its size, with what it sets apart.

    Raises:
        ConfigError: the dimensions do not divide as the model needs.
    """
    size = SIZES[config.size]
    return Architecture(
        width=config.width or size.width,
        depth=config.depth or size.depth,
        heads=config.heads or size.heads,
        mlp_ratio=config.mlp_ratio or size.mlp_ratio,
        out_layer_dim=config.out_layer_dim or size.out_layer_dim,
        space_dims=config.space_dims,
        grid=config.grid,
        patch=config.patch,
        channels=config.channels,
        history=config.history,
        horizon=config.horizon,
        modes=config.modes,
        num_datasets=config.num_datasets,
        time_aggregation=config.time_aggregation,
        normalize=config.normalize,
    )
