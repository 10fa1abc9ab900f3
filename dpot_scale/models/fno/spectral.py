"""The linear operator of an FNO block in Fourier space: a matrix for each mode (Li et al. 2021).

The Fourier transform of the few modes that are kept is a product with a matrix along each axis, so
nothing is complex: ZeRO partitions real parameters only, and half precision has no transform.

Legend: B windows, E width, s the space axes, n points of an axis, k its modes, M all kept modes.
An axis 2 holds real and imaginary parts.
"""

from functools import lru_cache
from math import pi, prod
from typing import Any

import torch
from torch import Tensor, nn

from dpot_scale.models.adapter import Adaptable
from dpot_scale.models.derived import MOST_KEPT

Modes = tuple[int, ...]  # frequencies from zero on, along each axis


class SpectralOperator(Adaptable):
    """irfft(R rfft(v)), with a complex matrix R for each mode.

    Of the last axis there is half a spectrum; of the others a mode for each sign. The transform is
    a mean over the points, so that the same function has the same spectrum on every grid, and a
    grid with fewer modes than matrices leaves out the highest.

    Args:
        width: Channels.
        modes: For which there are matrices.
        dtype: In which it is computed, unless its input has a higher precision.
    """

    matrices = ("weight",)

    def __init__(self, width: int, modes: Modes, dtype: torch.dtype) -> None:
        super().__init__()
        self.modes = modes
        self.dtype = dtype
        *full, half = modes
        shape = (2, *(2 * n - 1 for n in full), half, width, width)
        # The real and the imaginary part of an output have the variance of the inputs' parts.
        self.weight = nn.Parameter(torch.randn(shape) * (2 * width) ** -0.5)

    def forward(self, v_BsE: Tensor) -> Tensor:
        """Return (B, *space, E) in the dtype of what comes in."""
        dtype = torch.promote_types(v_BsE.dtype, self.dtype)
        space = tuple(v_BsE.shape[1:-1])
        modes = tuple(min(own, (n + 1) // 2) for own, n in zip(self.modes, space, strict=True))
        spectrum_B2ME = _transformed(v_BsE.to(dtype), modes)
        mixed_B2ME: Tensor = _ModeProduct.apply(  # type: ignore[no-untyped-call]
            spectrum_B2ME, self.adapted("weight"), _slices(self.modes, modes)
        )
        return _transformed_back(mixed_B2ME, modes, space).to(v_BsE.dtype)


class _ModeProduct(torch.autograd.Function):
    """The complex product of a spectrum and the matrices of its modes.

    It keeps the parameter itself and no view or cast of it, so that what ZeRO-3 gathers may go.
    """

    @staticmethod
    def forward(ctx: Any, x_B2ME: Tensor, weight: Tensor, cut: tuple[slice, ...]) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x_B2ME, weight)
        ctx.cut = cut
        real, imag = _cut(weight, cut, x_B2ME.dtype)
        x_real, x_imag = x_B2ME.permute(1, 2, 0, 3)
        by_real, by_imag = (torch.bmm(torch.cat([x_real, x_imag], 1), m) for m in (real, imag))
        count = len(x_B2ME)
        y_real = by_real[:, :count] - by_imag[:, count:]
        y_imag = by_real[:, count:] + by_imag[:, :count]
        return torch.stack([y_real, y_imag]).permute(2, 0, 1, 3)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        grad_B2ME: Tensor,
    ) -> tuple[Tensor, Tensor | None, None]:
        x_B2ME, weight = ctx.saved_tensors
        real, imag = _cut(weight, ctx.cut, x_B2ME.dtype)
        x_real, x_imag = x_B2ME.permute(1, 2, 3, 0)  # (M, E, B)
        g_real, g_imag = grad_B2ME.permute(1, 2, 0, 3)
        grad_x = torch.stack([
            torch.bmm(g_real, real.mT) + torch.bmm(g_imag, imag.mT),
            torch.bmm(g_imag, real.mT) - torch.bmm(g_real, imag.mT),
        ]).permute(2, 0, 1, 3)  # fmt: skip
        if not ctx.needs_input_grad[1]:  # it is frozen
            return grad_x, None, None
        of_matrices = torch.stack([
            torch.bmm(x_real, g_real) + torch.bmm(x_imag, g_imag),
            torch.bmm(x_real, g_imag) - torch.bmm(x_imag, g_real),
        ]).to(weight.dtype)  # fmt: skip
        cut = weight[:, *ctx.cut]
        if cut.shape == weight.shape:
            return grad_x, of_matrices.view(weight.shape), None
        grad_weight = torch.zeros_like(weight)
        grad_weight[:, *ctx.cut] = of_matrices.view(cut.shape)
        return grad_x, grad_weight, None


def _cut(weight: Tensor, cut: tuple[slice, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the real and the imaginary matrices (M, E, E) of some modes."""
    real, imag = weight[:, *cut].to(dtype).flatten(1, -3)
    return real, imag


def _slices(own: Modes, modes: Modes) -> tuple[slice, ...]:
    """Return where the lower ones of the modes of each axis lie: in the middle, and first."""
    *full, _ = zip(own, modes, strict=True)
    return (*(slice(n - few, n + few - 1) for n, few in full), slice(modes[-1]))


def _transformed(v_BsE: Tensor, modes: Modes) -> Tensor:
    """Return the spectrum of a field, (B, 2, M, E)."""
    batch, *space, width = v_BsE.shape
    there, _ = _matrices(space[-1], modes[-1], True, v_BsE.dtype, v_BsE.device)
    rows = prod(space[:-1])
    spectrum = there @ v_BsE.reshape(batch * rows, space[-1], width)
    done = modes[-1]
    for n, few in zip(reversed(space[:-1]), reversed(modes[:-1]), strict=True):
        there, _ = _matrices(n, few, False, v_BsE.dtype, v_BsE.device)
        rows //= n
        spectrum = there @ spectrum.view(batch * rows, n * 2, done * width)
        done *= 2 * few - 1
    return spectrum.view(batch, 2, done, width)


def _transformed_back(spectrum_B2ME: Tensor, modes: Modes, space: tuple[int, ...]) -> Tensor:
    """Return the field (B, *space, E) that has a spectrum."""
    batch, _, _, width = spectrum_B2ME.shape
    dtype, device = spectrum_B2ME.dtype, spectrum_B2ME.device
    field, rows = spectrum_B2ME.contiguous(), 1
    for n, few in zip(space[:-1], modes[:-1], strict=True):
        _, back = _matrices(n, few, False, dtype, device)
        field = back @ field.view(batch * rows, 2 * (2 * few - 1), -1)
        rows *= n
    _, back = _matrices(space[-1], modes[-1], True, dtype, device)
    field = back @ field.view(batch * rows, 2 * modes[-1], width)
    return field.view(batch, *space, width)


def _matrices(
    points: int, modes: int, is_last: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    return _cached_matrices(points, modes, is_last, dtype, device)


# Dynamo looks through `lru_cache`: a compiled block would compute the matrices again in every call.
# torch.compiler.assume_constant_result does no more than this, but imports Dynamo for a second.
_matrices.__dict__["_dynamo_marked_constant"] = True


@lru_cache(maxsize=MOST_KEPT)
def _cached_matrices(
    points: int, modes: int, is_last: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the transform along an axis and its inverse.

    Of the last axis, from real values: (2 k, n) and (n, 2 k). Of the others, whose values have two
    parts: (2 k, n 2) and (n 2, 2 k), with the modes from the lowest negative one on.
    """
    with torch.inference_mode(False):
        first = 0 if is_last else 1 - modes
        phase_kn = torch.outer(torch.arange(first, modes), torch.arange(points)).double()
        cos_kn, sin_kn = (wave(phase_kn * (2 * pi / points)) for wave in (torch.cos, torch.sin))
        if is_last:
            there = torch.cat([cos_kn, -sin_kn])
            # All but the mean stand for the conjugate mode, too.
            twice_k = torch.full((modes,), 2.0, dtype=torch.float64)
            twice_k[0] = 1
            back = there.t() * twice_k.repeat(2)
        else:
            from_real = torch.cat([cos_kn, -sin_kn])
            from_imag = torch.cat([sin_kn, cos_kn])
            there = torch.stack([from_real, from_imag], dim=2).flatten(1)
            back = there.t()
        both = (there / points, back)
        there, back = (matrix.to(device, dtype).contiguous() for matrix in both)
    return there, back
