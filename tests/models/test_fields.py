"""Layers of fields, for other fields. What a network makes of them: vit/ and fno/."""

import torch

from dpot_scale.models.fields import inputs_of_fields, outputs_of_fields
from dpot_scale.models.transfer import Fields

# Three channels, of which the source has the last and the first.
FIELDS = Fields((1, None, 0), ("T",), "fields by name")
CHANNELS = (2, 3)


def test_inputs_of_two_frames_and_patches_of_two_points() -> None:
    value = torch.arange(1.0, 17).view(2, 8)
    adapted = inputs_of_fields(value, (2, 12), CHANNELS, 2, FIELDS)
    assert adapted is not None
    assert adapted.value[0].tolist() == [3, 4, 0, 0, 1, 2, 7, 8, 0, 0, 5, 6]
    assert (adapted.how, adapted.drawn) == ("fields by name", None)


def test_outputs_that_the_source_has_not_are_drawn() -> None:
    value = torch.arange(1.0, 5)
    adapted = outputs_of_fields(value, (6,), CHANNELS, FIELDS)
    assert adapted is not None
    assert adapted.drawn is not None
    assert adapted.value.tolist() == [2, 0, 1, 4, 0, 3]
    assert adapted.drawn.tolist() == [False, True, False] * 2


def test_other_frames_or_outputs_do_not_fit() -> None:
    assert inputs_of_fields(torch.ones(2, 8), (2, 18), CHANNELS, 2, FIELDS) is None
    assert inputs_of_fields(torch.ones(3, 8), (2, 12), CHANNELS, 2, FIELDS) is None
    assert outputs_of_fields(torch.ones(4, 5), (6, 7), CHANNELS, FIELDS) is None
