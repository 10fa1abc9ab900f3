"""What the memory of a training of an FNO depends on, layer by layer. No torch here."""

from math import prod

from dpot_scale.config.strategy import ELEMENT_BYTES, Dtype
from dpot_scale.models.family import Footprint, Recompute, SpectralDtype
from dpot_scale.models.fno.config import PROJECTION, FNOConfig
from dpot_scale.models.fno.cost import count_parameters, count_spectral, matrix_shapes

FP32 = 4


def footprint(
    config: FNOConfig, recompute: Recompute, dtype: Dtype, spectral_dtype: SpectralDtype
) -> Footprint:
    """Return what the memory of a training depends on."""
    count = count_parameters(config)
    element = ELEMENT_BYTES[dtype]
    spectral = FP32 if spectral_dtype == "float32" else element
    matrices = count_spectral(config)
    return Footprint(
        parameters=count.total,
        matrices=sum(one.parameters for one in matrix_shapes(config)),
        largest_parameter=matrices,
        block=count.blocks // config.depth,
        block_matrix=matrices,
        vector=config.width,
        per_window=_per_window(config, recompute, element, spectral),
        fixed=_fixed(config, spectral),
        # The gradient of the matrices of a block, in the precision they are used in.
        end_of_backward=spectral * matrices,
    )


def _per_window(config: FNOConfig, recompute: Recompute, element: int, spectral: int) -> int:
    """Return the bytes that the forward of one window keeps for its backward.

    Args:
        config: The model.
        recompute: Which blocks run a second time.
        element: Bytes of an activation.
        spectral: Bytes of a real number in the Fourier part.
    """
    points = prod(config.space)
    state = element * config.width * points
    # Frames as they come, and at each point with its place.
    frames = (FP32 * config.history * config.channels + element * config.inputs) * points
    # The last state; the hidden layer before and after its GELU, and the gradient of one of them.
    output = (1 + 3 * PROJECTION) * state
    forecast = FP32 * 2 * config.channels * config.horizon * points
    # What comes in, what goes into the GELU, and the spectrum.
    block = 2 * state + spectral * 2 * prod(config.spectrum) * config.width
    again = 0 if recompute.blocks == "selective" else recompute.repeated(config.depth)
    blocks = (config.depth - again) * block + again * state + (block if again else 0)
    return frames + blocks + output + forecast


def _fixed(config: FNOConfig, spectral: int) -> int:
    """Return the bytes of the matrices of the Fourier transform and of its inverse."""
    *before, last = zip(config.space, config.spectrum, strict=True)
    points, half = last
    elements = points * 2 * half + sum(2 * n * 2 * modes for n, modes in before)
    return spectral * 2 * elements
