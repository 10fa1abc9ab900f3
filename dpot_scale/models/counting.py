"""What the formulas of all families are made of. No torch here, so plans stay cheap."""

FLOPS_PER_MAC = 2
# A complex product by real ones.
REAL_PRODUCTS = 4


def dense(inputs: int, outputs: int) -> int:
    """Return the weights and biases of a linear layer."""
    return inputs * outputs + outputs
