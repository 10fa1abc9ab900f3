"""What the memory of a training of a ViT depends on, layer by layer. No torch here."""

from math import prod

from dpot_scale.config.strategy import ELEMENT_BYTES, Dtype
from dpot_scale.models.family import Footprint, Recompute
from dpot_scale.models.vit.config import ViTConfig
from dpot_scale.models.vit.cost import count_parameters, matrix_shapes

FP32 = 4


def footprint(config: ViTConfig, recompute: Recompute, dtype: Dtype) -> Footprint:
    """Return what the memory of a training depends on."""
    count = count_parameters(config)
    width = config.width
    ends = (config.token_values * width, width * config.forecast_values)
    block_matrix = config.mlp_ratio * width**2
    return Footprint(
        parameters=count.total,
        matrices=sum(one.parameters for one in matrix_shapes(config)),
        largest_parameter=max(*ends, block_matrix, width * prod(config.latent_grid)),
        block=count.blocks // config.depth,
        block_matrix=block_matrix,
        vector=width,
        per_window=_per_window(config, recompute, ELEMENT_BYTES[dtype]),
        fixed=0,
        end_of_backward=0,
    )


def _per_window(config: ViTConfig, recompute: Recompute, element: int) -> int:
    """Return the bytes that the forward of one window keeps for its backward.

    Args:
        config: The model.
        recompute: Which blocks run a second time.
        element: Bytes of an activation.
    """
    patches, points = prod(config.latent_grid), prod(config.padded(config.space))
    tokens = config.time_tokens * patches
    state = element * config.width * tokens
    # Frames as they come, and as patches.
    frames = (FP32 + element) * config.history * config.channels * points
    # The input of the last norm and its output.
    output = 2 * element * config.width * patches
    forecast = FP32 * 2 * config.channels * config.horizon * points
    # The inputs of both norms and their outputs, queries, keys, values, what was attended to; the
    # hidden layer before and after its GELU. Of attention torch keeps one number for each query and
    # head; of a norm two for each token.
    small = FP32 * tokens
    attention = config.attentions * (6 * state + (config.heads + 2) * small)
    mlp = (2 + 2 * config.mlp_ratio) * state + 2 * small
    blocks = _kept_blocks(config.depth, recompute, state, attention, mlp)
    return frames + blocks + output + forecast


def _kept_blocks(depth: int, recompute: Recompute, state: int, attention: int, mlp: int) -> int:
    """Return the bytes that all blocks keep, and what one needs while it runs again."""
    whole = attention + mlp
    if recompute.blocks == "selective":
        return depth * (state + mlp) + attention
    again = recompute.repeated(depth)
    return (depth - again) * whole + again * state + (whole if again else 0)
