"""Patches of a field, and the field that they were."""

import pytest
import torch

from dpot_scale.models.patches import cropped, edge_padded, grid_from_patches, patches, pixels

SPACES = [(8, 12), (4, 8, 12)]  # patch 4


@pytest.mark.parametrize("space", SPACES)
def test_patches_back_to_the_grid(space: tuple[int, ...]) -> None:
    frames = torch.randn(2, 1, 3, *space)
    as_patches = patches(frames, 4).flatten(-len(space)).squeeze(1 + len(space))
    assert torch.equal(grid_from_patches(as_patches.transpose(-1, -2), 4), frames[:, 0])


@pytest.mark.parametrize("space", SPACES)
def test_pixels_are_all_frames_at_each_point(space: tuple[int, ...]) -> None:
    frames = torch.randn(2, 5, 3, *space)
    found = grid_from_patches(pixels(frames, 4), 4)
    assert torch.equal(found, frames.flatten(1, 2))


def test_an_edge_goes_on_and_is_cut_off() -> None:
    frames = torch.randn(2, 3, 1, 5, 7)
    padded = edge_padded(frames, (8, 8))
    assert padded.shape == (2, 3, 1, 8, 8)
    assert torch.equal(padded[..., 5:, :7], frames[..., 4:, :].expand(-1, -1, -1, 3, -1))
    assert torch.equal(padded[..., 7:], padded[..., 6:7])
    assert torch.equal(cropped(padded, (5, 7)), frames)
