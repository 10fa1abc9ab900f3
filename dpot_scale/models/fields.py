"""Linear layers whose inputs or outputs are fields, for other fields than those of a source."""

import torch
from torch import Tensor

from dpot_scale.models.transfer import Adapted, Fields


def inputs_of_fields(
    value: Tensor,
    shape: tuple[int, ...],
    channels: tuple[int, int],
    points: int,
    fields: Fields,
) -> Adapted | None:
    """Return a weight (outputs, groups x channels x points) for other fields.

    A field that the source has not begins without effect.

    Args:
        value: The weight of the source.
        shape: The wanted shape.
        channels: How many the source has, and how many are wanted.
        points: Values of each field in each group.
        fields: Which channel of the source each channel takes.
    """
    theirs, mine = channels
    groups = shape[1] // (mine * points)
    if value.shape != (shape[0], groups * theirs * points):
        return None
    known_mine, known_theirs = fields.known
    adapted = value.new_zeros(shape[0], groups, mine, points)
    adapted[:, :, known_mine] = value.view(shape[0], groups, theirs, points)[:, :, known_theirs]
    return Adapted(adapted.view(shape), fields.how)


def outputs_of_fields(
    value: Tensor, shape: tuple[int, ...], channels: tuple[int, int], fields: Fields
) -> Adapted | None:
    """Return a weight or bias, whose outputs are (groups x channels), for other fields.

    A field that the source has not is drawn. The arguments are those of `inputs_of_fields`.
    """
    theirs, mine = channels
    groups, inputs = shape[0] // mine, shape[1:]
    if value.shape != (groups * theirs, *inputs):
        return None
    known_mine, known_theirs = fields.known
    adapted = value.new_zeros(groups, mine, *inputs)
    adapted[:, known_mine] = value.view(groups, theirs, *inputs)[:, known_theirs]
    drawn = torch.ones(groups, mine, *[1] * len(inputs), dtype=torch.bool)
    drawn[:, known_mine] = False
    missing = len(known_mine) < mine
    return Adapted(adapted.view(shape), fields.how, drawn.flatten(0, 1) if missing else None)
