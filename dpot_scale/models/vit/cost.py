"""Parameters and FLOPs of a ViT, by formula. No torch here, so plans stay cheap."""

from math import prod

from dpot_scale.models.counting import FLOPS_PER_MAC, dense
from dpot_scale.models.family import Flops, Matrices, ParameterCount, Recompute
from dpot_scale.models.vit.config import ViTConfig


def count_parameters(config: ViTConfig) -> ParameterCount:
    """Return the number of parameters of each part."""
    width, norm = config.width, 2 * config.width
    hidden = config.mlp_ratio * width
    attention = norm + 4 * dense(width, width)
    mlp = norm + dense(width, hidden) + dense(hidden, width)
    times = config.time_tokens if config.time_tokens > 1 else 0
    return ParameterCount(
        {
            "patch_embed": dense(config.token_values, width),
            "pos_embed": width * (prod(config.latent_grid) + times),
            "statistics": dense(2 * config.channels, width),
            "blocks": config.depth * (config.attentions * attention + mlp),
            "output": norm + dense(width, config.forecast_values),
        }
    )


def matrix_shapes(config: ViTConfig) -> tuple[Matrices, ...]:
    """Return the matrices of all blocks: those of attentions and MLPs."""
    depth, width, hidden = config.depth, config.width, config.mlp_ratio * config.width
    return (
        Matrices(depth * 4 * config.attentions, width, width),
        Matrices(depth, hidden, width),
        Matrices(depth, width, hidden),
    )


def count_flops(config: ViTConfig, recompute: Recompute) -> Flops:
    """Return the FLOPs of one window."""
    width, patches = config.width, prod(config.latent_grid)
    tokens = config.time_tokens * patches
    attention = _attention_macs(config)
    mlp = tokens * 2 * config.mlp_ratio * width**2
    ends = (
        tokens * config.token_values * width
        + 2 * config.channels * width
        + patches * width * config.forecast_values
    )
    # Selective: the attentions alone.
    again = attention + (0 if recompute.blocks == "selective" else mlp)
    return Flops(
        forward=float(FLOPS_PER_MAC * (ends + config.depth * (attention + mlp))),
        recomputed=float(FLOPS_PER_MAC * recompute.repeated(config.depth) * again),
    )


def _attention_macs(config: ViTConfig) -> int:
    """Return the products of the attentions of a block: with matrices, and tokens by tokens."""
    patches, times = prod(config.latent_grid), config.time_tokens
    pairs = times * patches**2 + (patches * times**2 if times > 1 else 0)
    matrices = config.attentions * 4 * times * patches * config.width**2
    return int(matrices + 2 * pairs * config.width)
