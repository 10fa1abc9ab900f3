"""What the formulas of all families are made of. No torch here, so plans stay cheap."""

FLOPS_PER_MAC = 2
# A complex product by real ones.
REAL_PRODUCTS = 4
# Of the embedding of conditions (models/conditioning.py): features of each, channels of its MLP.
CONDITION_FEATURES, CONDITION_HIDDEN = 10, 64


def dense(inputs: int, outputs: int) -> int:
    """Return the weights and biases of a linear layer."""
    return inputs * outputs + outputs


def conditioning_layers(conditions: int, width: int) -> tuple[tuple[int, int], ...]:
    """Return inputs and outputs of each linear layer of the embedding of conditions."""
    return ((conditions * CONDITION_FEATURES, CONDITION_HIDDEN), (CONDITION_HIDDEN, 2 * width))
