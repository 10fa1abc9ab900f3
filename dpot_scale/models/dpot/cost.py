"""Parameters and FLOPs of an architecture, by formula. No torch here, so plans stay cheap.

FLOPs are 2 x multiply-accumulates of the matrix products; elementwise work is left out. Those of a
window are the published ones (PAPER section 1): of the formula as it is written, without the
transforms. `executed_forward_flops` counts what the code runs instead, to compare its time with the
matrix ceiling of a machine.
"""

from dataclasses import dataclass, fields
from math import prod

from dpot_scale.models.dpot.sizes import MATRIX_POINTS, Architecture

FLOPS_PER_MAC = 2
# The backward pass costs two products for each one of the forward.
TRAIN_PASSES = 3
# A complex product by four real ones.
REAL_PRODUCTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCount:
    """Parameters per part. Scaling is also fitted on `blocks`: 42 % of Ti, but 92 % of L."""

    embedding: int  # patches and positions
    time_aggregation: int
    blocks: int
    dataset_head: int
    output: int
    statistics: int  # the two features of `normalize`

    @property
    def total(self) -> int:
        """Return all parameters."""
        return sum(getattr(self, field.name) for field in fields(self))


def count_parameters(arch: Architecture) -> ParameterCount:
    """Return the number of parameters of each part."""
    width, patch_width = arch.width, arch.patch_width
    cell = arch.patch**arch.space_dims
    latents = arch.latent_grid**arch.space_dims
    forecast = arch.channels * arch.horizon
    gamma = width if arch.time_aggregation == "exp_mlp" else 0
    spectral = 2 * 2 * (width * (width // arch.heads) + width)
    norms = 2 * 2 * width
    mlp_hidden = arch.mlp_ratio * width
    mlp = _dense(width, mlp_hidden) + _dense(mlp_hidden, width)
    return ParameterCount(
        embedding=_dense((arch.channels + arch.coordinates) * cell, patch_width)
        + _dense(patch_width, width)
        + width * latents,
        time_aggregation=arch.history * width**2 + gamma,
        blocks=arch.depth * (norms + spectral + mlp),
        dataset_head=2 * _dense(width, width) + _dense(width, arch.num_datasets),
        # A transposed convolution has one bias per channel, not one per point of its cell.
        output=width * arch.out_layer_dim * cell
        + arch.out_layer_dim
        + _dense(arch.out_layer_dim, arch.out_layer_dim)
        + _dense(arch.out_layer_dim, forecast),
        statistics=2 * _dense(2 * arch.channels, width) if arch.normalize else 0,
    )


def forward_flops_per_window(arch: Architecture) -> float:
    """Return the FLOPs of one forward for one window (history frames in, horizon out)."""
    width = arch.width
    cell = arch.patch**arch.space_dims
    latents = arch.latent_grid**arch.space_dims
    points = arch.grid**arch.space_dims
    per_frame = latents * arch.patch_width * ((arch.channels + arch.coordinates) * cell + width)
    per_output_point = arch.out_layer_dim * (arch.out_layer_dim + arch.channels * arch.horizon)
    macs = (
        arch.history * (per_frame + latents * width**2)
        + 2 * width**2
        + width * arch.num_datasets
        + latents * width * arch.out_layer_dim * cell
        + points * per_output_point
        + (2 * 2 * arch.channels * width if arch.normalize else 0)
    )
    return float(FLOPS_PER_MAC * macs) + _blocks_forward_flops(arch)


def train_flops_per_window(arch: Architecture, recompute: bool) -> float:
    """Return the FLOPs of forward and backward for one window.

    Args:
        arch: The model.
        recompute: Whether activation checkpointing runs the forward of each block twice.
    """
    again = _blocks_forward_flops(arch) if recompute else 0.0
    return TRAIN_PASSES * forward_flops_per_window(arch) + again


def executed_forward_flops(arch: Architecture, windows: int) -> float:
    """Return the FLOPs of the products that one forward of a micro-batch runs.

    The temporal aggregation is merged with the products before it, once per forward, and the
    transforms of small 2D latents are products.

    Args:
        arch: The model.
        windows: Windows in the micro-batch.
    """
    width, features = arch.width, arch.patch_width
    cell = arch.patch**arch.space_dims
    latents = arch.latent_grid**arch.space_dims
    merger = arch.history * features * width**2 + latents * width**2
    places = latents * arch.space_dims * cell * features
    as_published = (
        arch.history * latents * (features * (arch.coordinates * cell + width) + width**2)
    )
    encoder = arch.history * latents * features * width
    saved = as_published - encoder
    per_window = forward_flops_per_window(arch) - FLOPS_PER_MAC * (
        saved - arch.depth * _transform_macs(arch)
    )
    return float(windows * per_window + FLOPS_PER_MAC * (merger + places))


def _transform_macs(arch: Architecture) -> int:
    """Return the products of one transform there and back, if it is made of products."""
    points = arch.latent_grid
    if arch.space_dims != 2 or points > MATRIX_POINTS:
        return 0
    along_x, along_y = arch.kept_modes
    # All modes of a real field along x come in conjugate pairs, some of them do not.
    parts = points if along_x == points and points % 2 == 0 else 2 * along_x
    return 2 * arch.width * (parts * points**2 + along_x * 2 * along_y * 2 * points)


def _blocks_forward_flops(arch: Architecture) -> float:
    latents = arch.latent_grid**arch.space_dims
    spectral = prod(arch.kept_modes) * 2 * REAL_PRODUCTS * arch.width * (arch.width // arch.heads)
    mlp = latents * 2 * arch.mlp_ratio * arch.width**2
    return float(FLOPS_PER_MAC * arch.depth * (spectral + mlp))


def _dense(inputs: int, outputs: int) -> int:
    """Return the weights and biases of a layer."""
    return inputs * outputs + outputs
