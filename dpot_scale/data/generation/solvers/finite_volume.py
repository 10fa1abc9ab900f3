"""What finite-volume solvers share: limited slopes."""

import torch
from torch import Tensor


def half_slope(a: Tensor, b: Tensor) -> Tensor:
    """Return half the monotonized central slope between two one-sided differences (van Leer).

    The mean difference, limited to twice the smaller one; zero where their signs differ.
    """
    lowest, highest = torch.maximum(a, b).clamp_(max=0), torch.minimum(a, b).clamp_(min=0)
    return torch.clamp((a + b).mul_(0.25), lowest, highest)
