"""The position embedding on another grid than its own."""

import torch
from torch.nn.functional import interpolate

from dpot_scale.models.positions import resized_positions


def smooth(latent: tuple[int, ...]) -> torch.Tensor:
    """The same function of place on every grid of cells."""
    axes = [(torch.arange(n) + 0.5) / n for n in latent]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.stack([(2 * place).sin().sum(0), (3 * place).cos().prod(0)])[None]


def test_on_its_own_grid_it_is_what_it_is() -> None:
    position = smooth((4, 6))
    assert resized_positions(position, (4, 6)) is position


def test_it_is_bicubic_in_2d() -> None:
    position = torch.randn(1, 3, 8, 8)
    for latent in ((12, 20), (5, 8), (8, 3), (16, 16)):
        expected = interpolate(position, size=latent, mode="bicubic", antialias=True)
        torch.testing.assert_close(resized_positions(position, latent), expected)


def test_a_smooth_one_is_the_same_function_of_place() -> None:
    for own, latent in (((16, 16), (12, 20)), ((16, 16, 16), (24, 12, 16))):
        found, expected = resized_positions(smooth(own), latent), smooth(latent)
        inner = (..., *[slice(3, -3)] * len(latent))
        torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=3e-3)
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-2)


def test_a_constant_stays_one_on_every_grid_and_in_half_precision() -> None:
    position = torch.full((1, 2, 1, 3), 0.75, dtype=torch.bfloat16)
    found = resized_positions(position, (4, 7))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.full((1, 2, 4, 7), 0.75, dtype=torch.bfloat16))


def test_a_first_call_for_inference_leaves_training_possible() -> None:
    position = torch.randn(1, 2, 5, 5, requires_grad=True)
    with torch.inference_mode():
        resized_positions(position, (7, 11))
    resized_positions(position, (7, 11)).sum().backward()
    assert position.grad is not None
    torch.testing.assert_close(position.grad.sum(), torch.tensor(2 * 77.0))
