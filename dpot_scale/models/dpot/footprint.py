"""What the memory of a training of a DPOT depends on, layer by layer. No torch here."""

from math import prod

from dpot_scale.config.strategy import ELEMENT_BYTES, Dtype
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.cost import count_parameters, matrix_shapes
from dpot_scale.models.family import Footprint, Recompute, SpectralDtype

FP32 = 4


def footprint(
    config: DPOTConfig, recompute: Recompute, dtype: Dtype, spectral_dtype: SpectralDtype
) -> Footprint:
    """Return what the memory of a training depends on."""
    count = count_parameters(config)
    element = ELEMENT_BYTES[dtype]
    spectral = FP32 if spectral_dtype == "float32" else element
    temporal = config.history * config.width**2
    return Footprint(
        parameters=count.total,
        matrices=sum(one.parameters for one in matrix_shapes(config)),
        largest_parameter=temporal,  # of all sizes but debug
        block=count.blocks // config.depth,
        block_matrix=config.mlp_ratio * config.width**2,
        vector=config.width,
        per_window=_per_window(config, recompute, element, spectral),
        fixed=_fixed(config, recompute, element, spectral),
        # The temporal weights, these times their cosines, two gradients of that and their sum, and
        # the gradient of the weights.
        end_of_backward=6 * element * temporal,
    )


def _per_window(config: DPOTConfig, recompute: Recompute, element: int, spectral: int) -> int:
    """Return the bytes that the forward of one window keeps for its backward.

    Args:
        config: The model.
        recompute: Which blocks run a second time.
        element: Bytes of an activation.
        spectral: Bytes of a real number in the Fourier part.
    """
    latents = prod(config.latent_grid)
    points = prod(config.padded(config.space))
    latent = element * config.width * latents  # one latent state
    # Frames, their patches, both sides of the GELU.
    embedding = config.history * (
        (FP32 + element) * config.channels * points + element * 2 * config.patch_width * latents
    )
    # The last latent state, before and after the two GELUs, and the gradient of one of them.
    output = latent + element * 5 * config.out_layer_dim * points
    skipped = element * config.skip_frames * config.channels * points
    # Three spectra; the inputs of both norms, the output of the second, the hidden layer before
    # and after its GELU.
    mixer = spectral * 3 * 2 * config.width * prod(config.kept_modes)
    mlp = (2 + 2 * config.mlp_ratio) * latent
    blocks = _kept_blocks(config.depth, recompute, latent=latent, mixer=mixer, mlp=mlp)
    forecast = FP32 * 2 * config.channels * config.horizon * points
    return embedding + blocks + output + skipped + forecast


def _kept_blocks(depth: int, recompute: Recompute, *, latent: int, mixer: int, mlp: int) -> int:
    """Return the bytes that all blocks keep, and what one needs while it runs again."""
    whole = latent + mixer + mlp
    if recompute.blocks == "selective":
        return depth * (latent + mlp) + mixer
    again = recompute.repeated(depth)
    return (depth - again) * whole + again * latent + (whole if again else 0)


def _fixed(config: DPOTConfig, recompute: Recompute, element: int, spectral: int) -> int:
    """Return the bytes that a forward computes from weights and keeps, for any batch.

    The complex products as real ones, in each block; the temporal weights with their cosines, their
    sum over frames, and the merged matrix; the output patches with their channels last.
    """
    width = config.width
    joint = 2 * 4 * width * (width // config.heads)
    merged = (config.history + 1) * width**2 + config.history * config.patch_width * width
    patches = width * config.out_layer_dim * int(config.patch**config.space_dims)
    again = recompute.repeated(config.depth)
    blocks = config.depth - again + (1 if again else 0)
    return spectral * joint * blocks + element * (merged + patches)
