"""Errors of a forecast relative to its target, per field, and their means.

Legend: B windows, T frames, C fields, s any number of space axes.
"""

from torch import Tensor

# Keeps the relative error of an all-zero target finite (the published value).
NORM_FLOOR = 1e-8


def rel_l2(forecast_BTCs: Tensor, target_BTCs: Tensor) -> Tensor:
    """Return the relative L2 error (B, C) of each field over frames and space.

    ||forecast - target|| / (||target|| + 1e-8), as in training and evaluation of the paper.
    """
    # Frames of another shape would be broadcast, and an error of nothing be learned.
    assert forecast_BTCs.shape == target_BTCs.shape, (forecast_BTCs.shape, target_BTCs.shape)
    error_BC = norm(forecast_BTCs - target_BTCs)
    return error_BC / (norm(target_BTCs) + NORM_FLOOR)


def counted_fields(target_BTCs: Tensor, marked_BC: Tensor) -> Tensor:
    """Return (B, C): the marked fields whose target is not zero everywhere.

    A target that is zero everywhere, such as a fluid at rest, has no relative error: divided by the
    floor of the norm, the error would dominate every mean.
    """
    return marked_BC & (norm(target_BTCs) != 0)


def mean_over_fields(value_BC: Tensor, marked_BC: Tensor) -> Tensor:
    """Return (B,): the mean of a per-field value over the fields that are marked, or 0 if none."""
    fields_B = marked_BC.sum(1).clamp(min=1)
    return value_BC.where(marked_BC, 0).sum(1) / fields_B


def mean_rel_l2(forecast_BTCs: Tensor, target_BTCs: Tensor, marked_BC: Tensor) -> Tensor:
    """Return (B,): the mean relative L2 error over the marked fields that are not all zero."""
    counted_BC = counted_fields(target_BTCs, marked_BC)
    return mean_over_fields(rel_l2(forecast_BTCs, target_BTCs), counted_BC)


def norm(frames_BTCs: Tensor) -> Tensor:
    """Return the L2 norm (B, C) of each field over frames and space."""
    norm_BC: Tensor = per_field(frames_BTCs).norm(dim=2)
    return norm_BC


def per_field(frames_BTCs: Tensor) -> Tensor:
    """Return (B, C, -1): all values of each field."""
    return frames_BTCs.transpose(1, 2).flatten(2)
