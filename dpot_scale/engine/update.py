"""FLOPs of the products of an update of the optimizer, by formula. No torch here."""

from dpot_scale.config.model import ModelConfig
from dpot_scale.config.optim import OptimConfig
from dpot_scale.config.start import StartConfig
from dpot_scale.models.counting import FLOPS_PER_MAC
from dpot_scale.models.families import family_of
from dpot_scale.models.family import BLOCKS

# Of the polynomial that makes a matrix orthogonal (engine/muon.py).
ITERATIONS = 5


def update_flops(model: ModelConfig, optim: OptimConfig, start: StartConfig) -> float:
    """Return the FLOPs of the products of one update, over all ranks: those of Muon, if any.

    Args:
        model: The model.
        optim: Its optimizer.
        start: Says whether the blocks train.
    """
    if optim.kind != "muon" or not start.rate(BLOCKS):
        return 0.0
    shapes = family_of(model).matrix_shapes(model)
    return float(sum(one.number * orthogonal_flops(one.rows, one.columns) for one in shapes))


def orthogonal_flops(rows: int, columns: int) -> int:
    """Return the FLOPs of making one matrix orthogonal.

    With m the shorter side an iteration has a Gram matrix (m m n products), its square (m m m) and
    a product with the matrix (m m n).
    """
    short, long = sorted((rows, columns))
    return ITERATIONS * FLOPS_PER_MAC * (2 * short**2 * long + short**3)
