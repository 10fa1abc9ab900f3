"""Fourier mixing of a latent field: a two-layer complex MLP on each mode and head.

Legend: B windows, E width, s the space axes, M kept modes, K heads, b = E/K; an axis 2 holds real
and imaginary parts, 2b those of a head side by side.
"""

from functools import lru_cache
from math import pi

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from dpot_scale.models.adapter import Adaptable
from dpot_scale.models.derived import MOST_KEPT, Derived
from dpot_scale.models.dpot.config import MATRIX_POINTS, ModeCut
from dpot_scale.models.product import Product, final_products


class SpectralMixer(Adaptable):
    """v + irfft(f(rfft(v))): the global mixer of a DPOT block (Hao et al. 2024).

    Complex weights are real pairs, since ZeRO partitions real parameters only.

    Args:
        width: Channels.
        heads: Blocks of channels that are mixed apart.
        cut: The modes that are kept; all others become 0.
        dtype: In which it is computed, unless its input has a higher precision.
    """

    matrices = ("w1", "w2")

    def __init__(
        self,
        width: int,
        heads: int,
        cut: ModeCut,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        block = width // heads
        self.heads = heads
        self.cut = cut
        self.dtype = dtype
        self.w1 = nn.Parameter(torch.rand(2, heads, block, block) / block**2)
        self.b1 = nn.Parameter(torch.rand(2, heads, block) / block**2)
        self.w2 = nn.Parameter(torch.rand(2, heads, block, block) / block**2)
        self.b2 = nn.Parameter(torch.rand(2, heads, block) / block**2)
        self.derived = Derived()

    def forward(self, v_BsE: Tensor) -> Tensor:
        """Mix (B, *space, E) over space; the dtype is kept."""
        dtype = torch.promote_types(v_BsE.dtype, self.dtype)
        space = v_BsE.shape[1:-1]
        by_matrices = len(space) == 2 and max(space) <= MATRIX_POINTS
        with torch.autocast(v_BsE.device.type, enabled=False):
            signal_BsE = v_BsE.to(dtype)
            mix = self._mix_by_matrices if by_matrices else self._mix_by_fft
            mixed_BsE: Tensor = mix(signal_BsE)
        return mixed_BsE.to(v_BsE.dtype)

    def _mix_by_matrices(self, v_BxyE: Tensor) -> Tensor:
        batch, rows, columns, width = v_BxyE.shape
        to_x, to_xy, from_xy, from_x = (
            matrices.expand(batch, *matrices.shape).flatten(0, -3)
            for matrices in _transforms(
                (rows, columns),
                self.cut.kept((rows, columns)),
                self.cut.negative((rows, columns))[0],
                v_BxyE.dtype,
                v_BxyE.device,
            )
        )
        v_Bx = v_BxyE.reshape(batch, rows, columns * width)
        half = torch.bmm(to_x, v_Bx).view(len(to_xy), 2 * columns, width)
        spectrum = torch.bmm(to_xy, half)
        mixed = self._mix(spectrum.view(-1, 2, width)).view_as(spectrum)
        half = torch.bmm(from_xy, mixed).view(batch, -1, columns * width)
        return torch.baddbmm(v_Bx, from_x, half).view_as(v_BxyE)

    def _mix_by_fft(self, v_BsE: Tensor) -> Tensor:
        axes = tuple(range(1, v_BsE.ndim - 1))
        fft_dtype = torch.promote_types(v_BsE.dtype, torch.float32)  # none in half precision
        spectrum = torch.fft.rfftn(v_BsE.to(fft_dtype), dim=axes, norm="ortho")
        space = v_BsE.shape[1:-1]
        cuts = list(zip(axes, self.cut.kept(space), self.cut.negative(space), strict=True))
        for axis, kept, negative in cuts:
            spectrum = _cut(spectrum, axis, kept - negative, negative)
        parts_M2E = torch.view_as_real(spectrum).flatten(0, -3).transpose(1, 2)
        real_ME, imag_ME = self._mix(parts_M2E.to(v_BsE.dtype)).to(fft_dtype).unbind(1)
        mixed = torch.complex(real_ME, imag_ME).view(spectrum.shape)
        for axis, _, negative in cuts:
            if negative:
                mixed = _uncut(mixed, axis, negative, space[axis - 1])
        # irfftn puts zeros where modes were cut off at the end of an axis.
        update: Tensor = torch.fft.irfftn(mixed, s=space, dim=axes, norm="ortho")
        return v_BsE + update.to(v_BsE.dtype)

    def _mix(self, spectrum_M2E: Tensor) -> Tensor:
        """Apply the MLP to each mode of each window; GELU sees real and imaginary parts apart."""
        count, _, width = spectrum_M2E.shape
        dtype = spectrum_M2E.dtype
        x_KM2b = spectrum_M2E.reshape(count, 2, self.heads, -1).permute(2, 0, 1, 3).flatten(2)
        if self.derived.is_kept:
            first, second = self.derived(dtype, lambda: self._final(dtype))
            x_KM2b = second(gelu(first(x_KM2b)))
        else:
            (w1, b1), (w2, b2) = self._joint(dtype)
            x_KM2b = torch.baddbmm(b2, gelu(torch.baddbmm(b1, x_KM2b, w1)), w2)
        parts_KM2b = x_KM2b.view(self.heads, count, 2, -1)
        return parts_KM2b.permute(1, 2, 0, 3).reshape(count, 2, width)

    def _joint(self, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return weight and bias of each layer for real and imaginary parts side by side."""
        first = _joint_weight(self.adapted("w1"), dtype), _joint_bias(self.b1, dtype)
        return first, (_joint_weight(self.adapted("w2"), dtype), _joint_bias(self.b2, dtype))

    def _final(self, dtype: torch.dtype) -> tuple[Product, Product]:
        first, second = self._joint(dtype)
        return final_products(*first), final_products(*second)


def _cut(spectrum: Tensor, axis: int, first: int, last: int) -> Tensor:
    """Return the first and the last modes of an axis, one after the other."""
    kept = spectrum.narrow(axis, 0, first)
    if last:
        kept = torch.cat([kept, spectrum.narrow(axis, -last, last)], dim=axis)
    return kept


def _uncut(kept: Tensor, axis: int, last: int, points: int) -> Tensor:
    """Return the spectrum of an axis with its kept modes in their places, and zeros between."""
    first, end = torch.split(kept, [kept.shape[axis] - last, last], dim=axis)
    shape = list(kept.shape)
    shape[axis] = points - kept.shape[axis]
    return torch.cat([first, kept.new_zeros(shape), end], dim=axis)


def _joint_weight(weight_2Kbb: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (K, 2b, 2b): one real product that does the four of a complex one."""
    real_Kbb, imag_Kbb = weight_2Kbb.to(dtype)
    from_real = torch.cat([real_Kbb, imag_Kbb], dim=2)
    from_imag = torch.cat([-imag_Kbb, real_Kbb], dim=2)
    return torch.cat([from_real, from_imag], dim=1)


def _joint_bias(bias_2Kb: Tensor, dtype: torch.dtype) -> Tensor:
    return bias_2Kb.to(dtype).transpose(0, 1).flatten(1).unsqueeze(1)


def _transforms(
    space: tuple[int, int],
    kept: tuple[int, ...],
    negative_x: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _cached_transforms(space, kept, negative_x, dtype, device)


# Dynamo looks through `cache`: a compiled block would compute the matrices again in every call.
# torch.compiler.assume_constant_result does no more than this, but imports Dynamo for a second.
_transforms.__dict__["_dynamo_marked_constant"] = True


@lru_cache(maxsize=MOST_KEPT)
def _cached_transforms(
    space: tuple[int, int],
    kept: tuple[int, ...],
    negative_x: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the transform of a real 2D field and its inverse, each as two kinds of matrices.

    Along x, (1, 2 S, x): from points to S pairs, each the real and the imaginary part of one mode.
    Along y, (S, modes 2, 2 y): from each pair to the modes that need it, their real and imaginary
    parts. Then the same way back. They do what `rfft2` and `irfft2` do with norm="ortho", cut to
    the modes of a `ModeCut`, of which the last `negative_x` along x are negative; the order of the
    modes is their own.
    """
    (rows, columns), (kept_x, kept_y) = space, kept
    with torch.inference_mode(False):
        modes_x = torch.arange(kept_x)
        modes_x[kept_x - negative_x :] -= kept_x
        cos_x, sin_x = _waves(rows, modes_x)
        cos_y, sin_y = _waves(columns, torch.arange(kept_y))
        pairs_S2x = torch.stack([cos_x, -sin_x], dim=1)
        of_real = torch.stack([cos_y, -sin_y], dim=1)  # (modes, 2, y)
        of_imag = torch.stack([sin_y, cos_y], dim=1)
        none = torch.zeros_like(of_real)
        modes = [(of_real, of_imag)]
        steps = [modes] * kept_x
        if kept_x == rows and rows % 2 == 0:
            # All modes: of a real field those of -x are conjugate to those of x, and DC and
            # Nyquist, both real, make up one pair. Half as many pairs, and no FLOP is wasted.
            pairs_S2x = pairs_S2x[: rows // 2].clone()
            pairs_S2x[0, 1] = cos_x[rows // 2]
            steps = [[(of_real, none), (none, of_real)]]
            steps += [[*modes, (of_real, -of_imag)]] * (rows // 2 - 1)
        along_x = pairs_S2x.flatten(0, 1).unsqueeze(0)
        along_y_SMc2y = torch.stack([
            torch.cat([torch.cat(parts, dim=2) for parts in step]) for step in steps
        ])  # fmt: skip
        # The half spectrum stands for conjugate modes too, which all but DC and Nyquist have.
        mode_y = torch.arange(kept_y).repeat(along_y_SMc2y.shape[1] // kept_y)
        twice = torch.where((mode_y == 0) | (2 * mode_y == columns), 1.0, 2.0)[:, None, None]
        there, back = (m.flatten(1, 2) for m in (along_y_SMc2y, twice * along_y_SMc2y))
        matrices = (along_x, there, back.transpose(1, 2), along_x.transpose(1, 2))
        to_x, to_xy, from_xy, from_x = (m.to(device, dtype).contiguous() for m in matrices)
    return to_x, to_xy, from_xy, from_x


def _waves(points: int, modes: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2 pi k x / n, over sqrt(n), as (modes, points) in fp64."""
    phase = torch.outer(modes, torch.arange(points)).double() * (2 * pi / points)
    return phase.cos() / points**0.5, phase.sin() / points**0.5
