"""Fourier mixing of a latent field: a two-layer complex MLP on each mode and head.

Legend: B windows, E width, s the space axes, M kept modes, K heads, b = E/K, 2b the real and
imaginary parts of a head side by side.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu


class SpectralMixer(nn.Module):
    """v + irfft(f(rfft(v))): the global mixer of a DPOT block (PAPER section 1, step 4).

    Always computed in fp32: half precision has no FFT for these sizes, and loses accuracy in the
    product. Complex weights are real pairs, since ZeRO partitions real parameters only.
    """

    def __init__(self, width: int, heads: int, kept_modes: tuple[int, ...]) -> None:
        super().__init__()
        block = width // heads
        self.heads = heads
        self.kept_modes = kept_modes
        self.w1 = nn.Parameter(torch.rand(2, heads, block, block) / block**2)
        self.b1 = nn.Parameter(torch.rand(2, heads, block) / block**2)
        self.w2 = nn.Parameter(torch.rand(2, heads, block, block) / block**2)
        self.b2 = nn.Parameter(torch.rand(2, heads, block) / block**2)

    def forward(self, v_BEs: Tensor) -> Tensor:
        """Mix (B, E, *space) over space; the dtype is kept."""
        space = v_BEs.shape[2:]
        axes = tuple(range(2, v_BEs.ndim))
        with torch.autocast(v_BEs.device.type, enabled=False):
            signal_BEs = v_BEs.float()
            spectrum = torch.fft.rfftn(signal_BEs, dim=axes, norm="ortho")
            for axis, kept in zip(axes, self.kept_modes, strict=True):
                spectrum = spectrum.narrow(axis, 0, kept)
            # irfftn puts zeros where modes were cut off.
            mixed_BEs = torch.fft.irfftn(self._mix(spectrum), s=space, dim=axes, norm="ortho")
            output_BEs: Tensor = (signal_BEs + mixed_BEs).to(v_BEs.dtype)
        return output_BEs

    def _mix(self, spectrum: Tensor) -> Tensor:
        """Apply the MLP to a complex (B, E, *modes); GELU sees real and imaginary parts apart."""
        batch, width, *modes = spectrum.shape
        block = width // self.heads
        parts_BKbM2 = torch.view_as_real(spectrum).reshape(batch, self.heads, block, -1, 2)
        x_KBM2b = parts_BKbM2.permute(1, 0, 3, 4, 2).reshape(self.heads, -1, 2 * block)
        x_KBM2b = gelu(torch.baddbmm(_joint_bias(self.b1), x_KBM2b, _joint_weight(self.w1)))
        x_KBM2b = torch.baddbmm(_joint_bias(self.b2), x_KBM2b, _joint_weight(self.w2))
        parts_BKbM2 = x_KBM2b.view(self.heads, batch, -1, 2, block).permute(1, 0, 4, 2, 3)
        return torch.view_as_complex(parts_BKbM2.contiguous().view(batch, width, *modes, 2))


def _joint_weight(weight_2Kbb: Tensor) -> Tensor:
    """Return (K, 2b, 2b): one real product that does the four of a complex one."""
    real_Kbb, imag_Kbb = weight_2Kbb.float()
    from_real = torch.cat([real_Kbb, imag_Kbb], dim=2)
    from_imag = torch.cat([-imag_Kbb, real_Kbb], dim=2)
    return torch.cat([from_real, from_imag], dim=1)


def _joint_bias(bias_2Kb: Tensor) -> Tensor:
    return bias_2Kb.float().transpose(0, 1).flatten(1).unsqueeze(1)
