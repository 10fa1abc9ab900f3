"""The config of one DPOT, with the named sizes. No torch here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dpot_scale.config.base import Name, NonNegativeInt, PositiveInt
from dpot_scale.config.model import DT, ModelConfig, Points

NORM_GROUPS = 8
PARAMETERS = "parameters"  # in `conditioning`
# In 3D the last axis keeps at most this many Fourier modes, as in the published 3D model.
LAST_AXIS_MODES_3D = 8
# Up to this many latent points per axis of a 2D field its Fourier transform is two products with
# small matrices, which need no complex numbers. Mixer, forward and backward, against torch.fft
# (2-core EPYC): 0.6 of its time at 8 points, 0.8 (fp32) and 0.6 (bf16) at 16, 0.9 and 0.5 at 32.
MATRIX_POINTS = 32

SizeName = Literal["debug", "Ti", "S", "M", "L", "H"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What a name like Ti stands for."""

    width: int
    depth: int
    heads: int
    mlp_ratio: int
    out_layer_dim: int


# Hao et al. 2024; `debug` is ours. L has 16 heads, as the released weights have.
SIZES: dict[SizeName, Size] = {
    "debug": Size(width=64, depth=4, heads=4, mlp_ratio=1, out_layer_dim=16),
    "Ti": Size(width=512, depth=4, heads=4, mlp_ratio=1, out_layer_dim=32),
    "S": Size(width=1024, depth=6, heads=8, mlp_ratio=1, out_layer_dim=32),
    "M": Size(width=1024, depth=12, heads=8, mlp_ratio=4, out_layer_dim=32),
    "L": Size(width=1536, depth=24, heads=16, mlp_ratio=4, out_layer_dim=128),
    "H": Size(width=2048, depth=27, heads=8, mlp_ratio=4, out_layer_dim=128),
}


@dataclass(frozen=True, slots=True)
class ModeCut:
    """Which Fourier modes are kept. Of a small latent grid, all that it has."""

    limits: tuple[int, ...]  # per axis
    symmetric: bool = False  # on all axes but the last one, of which there is only one half

    def kept(self, latent: Points) -> tuple[int, ...]:
        """Return how many modes are kept on each axis of the half spectrum of a latent grid.

        A symmetric cut to n keeps the frequencies -n < k < n; the other one 0 <= k < n, where k
        goes up to the points of the axis, so that the upper half of them are negative frequencies.
        """
        half = latent[-1] // 2 + 1
        most = [2 * n - 1 if self.symmetric else n for n in self.limits[:-1]]
        full = (min(n, points) for n, points in zip(most, latent[:-1], strict=True))
        return (*full, min(self.limits[-1], half))

    def negative(self, latent: Points) -> tuple[int, ...]:
        """Return how many of the kept modes of each axis are the last ones that the axis has."""
        if not self.symmetric:
            return (0,) * len(latent)
        pairs = zip(self.kept(latent)[:-1], latent[:-1], strict=True)
        return (*((kept - 1) // 2 if kept < points else 0 for kept, points in pairs), 0)


# Of a dimension that is not set apart: that of the named size.
OF_SIZE: Any = Field(default=None, validate_default=True)


class DPOTConfig(ModelConfig):
    """One DPOT: a named size, each dimension of which can be set apart.

    `model_dump` leaves out the dimensions that are those of the size, so that another size takes
    effect where it is laid over a saved config.
    """

    family: Literal["dpot"] = "dpot"
    """Family of the model."""
    size: SizeName = "Ti"
    """Named size, which sets the five dimensions below unless they are given."""
    width: PositiveInt = OF_SIZE
    """Latent channels."""
    depth: PositiveInt = OF_SIZE
    """Blocks."""
    heads: PositiveInt = OF_SIZE
    """Groups of channels that the Fourier layer mixes apart."""
    mlp_ratio: PositiveInt = OF_SIZE
    """Hidden channels of a block's MLP / width."""
    out_layer_dim: PositiveInt = OF_SIZE
    """Channels of the output layer, at full resolution."""
    patch: PositiveInt = 8
    """Points per latent point, along each axis."""
    modes: PositiveInt = 32
    """Fourier modes kept per axis; in 3D at most 8 on the last one."""
    modes_kept: Literal["positive", "symmetric"] = "positive"
    """Which modes are kept where `modes` cuts. positive: the first ones of each axis, so all but
    the last axis lose negative frequencies, as published. symmetric: the negative ones, too: all
    frequencies below `modes`. Where nothing is cut both are the same."""
    num_datasets: PositiveInt = 12
    """Classes of the head that tells datasets apart."""
    time_aggregation: Literal["exp_mlp", "mlp"] = "exp_mlp"
    """How history frames become one. exp_mlp: with learned frequencies in time. mlp: without."""
    normalize: bool = False
    """Whether each sample is standardised per channel before the blocks and restored after them."""
    skip_frames: NonNegativeInt = 0
    """Newest frames that the output layer sees at full resolution, beside the latent state, so that
    details smaller than a patch reach the forecast. 0: none, as published."""
    conditioning: tuple[Literal["dt", "parameters"], ...] = ()
    """What the model is told of each window beside its frames. dt: the time from one frame to the
    next, in the unit of its equation. parameters: the PDE parameters that `parameters` names.
    Nothing, as published."""
    parameters: tuple[Name, ...] = ()
    """Names of PDE parameters that datasets keep of their trajectories, such as viscosity. Of a
    dataset that lacks one the model is told that it is unknown."""

    abbreviations: ClassVar[tuple[str, ...]] = ("size",)
    younger: ClassVar[Mapping[str, object]] = {
        **ModelConfig.younger,
        "skip_frames": 0,
        "modes_kept": "positive",
        "conditioning": (),
        "parameters": (),
    }

    @field_validator("width", "depth", "heads", "mlp_ratio", "out_layer_dim", mode="before")
    @classmethod
    def _take_from_size(cls, value: object, info: ValidationInfo) -> object:
        size = info.data.get("size", cls.model_fields["size"].default)
        return getattr(SIZES[size], str(info.field_name)) if value is None else value

    @field_validator("width")
    @classmethod
    def _width_holds_groups(cls, width: int) -> int:
        if width % NORM_GROUPS:
            raise PydanticCustomError(
                "multiple_of",
                "Input should be a multiple of {groups}, the number of normalisation groups",
                {"groups": NORM_GROUPS},
            )
        return width

    @field_validator("heads")
    @classmethod
    def _divides_the_width(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width", 0)  # 0: it is wrong itself
        if width % heads:
            raise PydanticCustomError(
                "divisor_of", "Input should be a divisor of width={width}", {"width": width}
            )
        return heads

    @field_validator("skip_frames")
    @classmethod
    def _skips_known_frames(cls, frames: int, info: ValidationInfo) -> int:
        history = info.data.get("history", frames)  # absent: it is wrong itself
        if frames > history:
            raise PydanticCustomError(
                "frames_of_history",
                "Input should be at most history={history}",
                {"history": history},
            )
        return frames

    @model_validator(mode="after")
    def _conditions_have_names(self) -> Self:
        asked = PARAMETERS in self.conditioning
        if asked and not self.parameters:
            raise ValueError(
                "conditioning=[parameters] needs their names, as parameters=[viscosity]"
            )
        if self.parameters and not asked:
            raise ValueError(
                f"parameters=[{', '.join(self.parameters)}] needs conditioning=[parameters]"
            )
        if len(set(self.conditions)) < len(self.conditioning) - asked + len(self.parameters):
            raise ValueError(
                f"conditioning=[{', '.join(self.conditioning)}] and parameters="
                f"[{', '.join(self.parameters)}] name something twice"
            )
        return self

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the numbers that a model is told of each window, in their order."""
        return (*[DT] * (DT in self.conditioning), *self.parameters)

    @model_serializer(mode="wrap")
    def _leave_out_the_dimensions_of_the_size(
        self, serialize: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        of_size = asdict(SIZES[self.size])
        values: dict[str, Any] = serialize(self)
        return {k: v for k, v in values.items() if k not in of_size or v != of_size[k]}

    def padded(self, points: Points) -> Points:
        """Return the next multiples of the patch."""
        return tuple(self.patch * n for n in self.latent(points))

    def latent(self, points: Points) -> Points:
        """Return the latent points along each axis of a field with so many points."""
        return tuple(-(-n // self.patch) for n in points)

    @property
    def latent_grid(self) -> Points:
        """Latent points along each axis of `grid`."""
        return self.latent(self.space)

    @property
    def coordinates(self) -> int:
        """Channels that say where and when a point is: the space axes and time."""
        return self.space_dims + 1

    @property
    def patch_width(self) -> int:
        """Channels between the two layers of the patch embedding."""
        return self.channels * self.patch + self.coordinates

    @property
    def mode_cut(self) -> ModeCut:
        """Which Fourier modes are kept."""
        # The published 3D model bounds its last axis by a constant, not by `modes`.
        last = LAST_AXIS_MODES_3D if self.space_dims == 3 else self.modes
        limits = (*[self.modes] * (self.space_dims - 1), last)
        return ModeCut(limits, symmetric=self.modes_kept == "symmetric")

    @property
    def kept_modes(self) -> tuple[int, ...]:
        """Fourier modes kept on each axis of the half spectrum of `grid`."""
        return self.mode_cut.kept(self.latent_grid)
