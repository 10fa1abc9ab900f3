"""Parameters and FLOPs of a DPOT, by formula. No torch here, so plans stay cheap.

FLOPs are 2 x multiply-accumulates of the matrix products; elementwise work is left out. Those of a
window are the published ones (Hao et al. 2024): of the formula as it is written, without the
transforms. `executed_forward_flops` counts what the code runs instead, to compare its time with the
matrix ceiling of a machine.
"""

from collections.abc import Callable
from math import prod
from operator import mul

from dpot_scale.models.counting import FLOPS_PER_MAC, REAL_PRODUCTS, conditioning_layers, dense
from dpot_scale.models.dpot.config import MATRIX_POINTS, DPOTConfig
from dpot_scale.models.family import Flops, Matrices, ParameterCount, Recompute


def count_parameters(config: DPOTConfig) -> ParameterCount:
    """Return the number of parameters of each part."""
    width, patch_width = config.width, config.patch_width
    cell = config.patch**config.space_dims
    latents = prod(config.latent_grid)
    forecast = config.channels * config.horizon
    gamma = width if config.time_aggregation == "exp_mlp" else 0
    spectral = 2 * 2 * (width * (width // config.heads) + width)
    norms = 2 * 2 * width
    mlp_hidden = config.mlp_ratio * width
    mlp = dense(width, mlp_hidden) + dense(mlp_hidden, width)
    output = (
        width * config.out_layer_dim * cell
        # A transposed convolution has one bias per channel, not one per point of its cell.
        + config.out_layer_dim
        + dense(config.out_layer_dim, config.out_layer_dim)
        + dense(config.out_layer_dim, forecast)
    )
    if config.skip_frames:
        output += dense(config.skip_frames * config.channels, config.out_layer_dim)
    return ParameterCount(
        {
            "patch_embed": dense((config.channels + config.coordinates) * cell, patch_width)
            + dense(patch_width, width),
            "pos_embed": width * latents,
            "time_agg": config.history * width**2 + gamma,
            "blocks": config.depth * (norms + spectral + mlp),
            "head": 2 * dense(width, width) + dense(width, config.num_datasets),
            "output": output,
            "conditioning": _conditioning(config, dense),
            "statistics": 2 * dense(2 * config.channels, width) if config.normalize else 0,
        }
    )


def matrix_shapes(config: DPOTConfig) -> tuple[Matrices, ...]:
    """Return the matrices of all blocks: those of its mixers and MLPs."""
    depth, of_head = config.depth, config.width // config.heads
    hidden = config.mlp_ratio * config.width
    return (
        # Two weights of a mixer, each with a real and an imaginary matrix for each head.
        Matrices(depth * 2 * 2 * config.heads, of_head, of_head),
        Matrices(depth, hidden, config.width),
        Matrices(depth, config.width, hidden),
    )


def count_flops(config: DPOTConfig, recompute: Recompute) -> Flops:
    """Return the FLOPs of one window."""
    again = recompute.repeated(config.depth) / config.depth
    return Flops(forward=_forward_flops(config), recomputed=again * _blocks_forward_flops(config))


def executed_forward_flops(config: DPOTConfig, windows: int) -> float:
    """Return the FLOPs of the products that one forward of a micro-batch runs.

    The temporal aggregation is merged with the products before it, once per forward, and the
    transforms of small 2D latents are products.

    Args:
        config: The model.
        windows: Windows in the micro-batch.
    """
    width, features = config.width, config.patch_width
    cell = config.patch**config.space_dims
    latents = prod(config.latent_grid)
    merger = config.history * features * width**2 + latents * width**2
    places = latents * config.space_dims * cell * features
    as_published = (
        config.history * latents * (features * (config.coordinates * cell + width) + width**2)
    )
    encoder = config.history * latents * features * width
    saved = as_published - encoder
    per_window = _forward_flops(config) - FLOPS_PER_MAC * (
        saved - config.depth * _transform_macs(config)
    )
    return float(windows * per_window + FLOPS_PER_MAC * (merger + places))


def _forward_flops(config: DPOTConfig) -> float:
    width = config.width
    cell = config.patch**config.space_dims
    latents = prod(config.latent_grid)
    points = latents * cell  # padding included
    per_frame = (
        latents * config.patch_width * ((config.channels + config.coordinates) * cell + width)
    )
    per_output_point = config.out_layer_dim * (
        config.out_layer_dim + config.channels * (config.horizon + config.skip_frames)
    )
    macs = (
        config.history * (per_frame + latents * width**2)
        + 2 * width**2
        + width * config.num_datasets
        + latents * width * config.out_layer_dim * cell
        + points * per_output_point
        + (2 * 2 * config.channels * width if config.normalize else 0)
        + _conditioning(config, mul)
    )
    return float(FLOPS_PER_MAC * macs) + _blocks_forward_flops(config)


def _transform_macs(config: DPOTConfig) -> int:
    """Return the products of one transform there and back, if it is made of products."""
    if config.space_dims != 2 or max(config.latent_grid) > MATRIX_POINTS:
        return 0
    (rows, columns), (along_x, along_y) = config.latent_grid, config.kept_modes
    # All modes of a real field along x come in conjugate pairs, some of them do not.
    parts = rows if along_x == rows and rows % 2 == 0 else 2 * along_x
    return 2 * config.width * (parts * rows * columns + along_x * 2 * along_y * 2 * columns)


def _blocks_forward_flops(config: DPOTConfig) -> float:
    latents = prod(config.latent_grid)
    spectral = (
        prod(config.kept_modes) * 2 * REAL_PRODUCTS * config.width * (config.width // config.heads)
    )
    mlp = latents * 2 * config.mlp_ratio * config.width**2
    return float(FLOPS_PER_MAC * config.depth * (spectral + mlp))


def _conditioning(config: DPOTConfig, of_layer: Callable[[int, int], int]) -> int:
    """Return the sum over the layers of the conditioning, given the inputs and outputs of each."""
    layers = conditioning_layers(len(config.conditions), config.width)
    return sum(of_layer(*layer) for layer in layers) if config.conditions else 0
