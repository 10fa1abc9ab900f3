import pytest
import torch
from torch.nn.functional import gelu

from dpot_scale.model.spectral import SpectralMixer


def reference(mixer, v, modes):
    """The formula of the paper in complex double precision, head by head."""
    axes = tuple(range(2, v.ndim))
    spectrum = torch.fft.rfftn(v.double(), dim=axes, norm="ortho")
    kept = (..., *(slice(0, count) for count in modes))
    mixed = torch.zeros_like(spectrum)
    w1, b1, w2, b2 = (
        torch.complex(*parameter.detach().double())
        for parameter in (mixer.w1, mixer.b1, mixer.w2, mixer.b2)
    )
    block = w1.shape[1]
    for head in range(len(w1)):
        channels = slice(head * block, (head + 1) * block)
        x = spectrum[:, channels][kept].movedim(1, -1) @ w1[head] + b1[head]
        x = torch.complex(gelu(x.real), gelu(x.imag)) @ w2[head] + b2[head]
        mixed[:, channels][kept] = x.movedim(-1, 1)
    return v + torch.fft.irfftn(mixed, s=v.shape[2:], dim=axes, norm="ortho")


def a_mixer(modes):
    torch.manual_seed(0)
    mixer = SpectralMixer(width=12, heads=3, kept_modes=modes)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


@pytest.mark.parametrize(
    ("space", "modes"),
    [
        ((8, 8), (8, 5)),
        ((8, 8), (3, 2)),
        ((7, 9), (7, 5)),  # odd sizes have no Nyquist mode
        ((4, 6, 6), (4, 6, 4)),
        ((6, 6, 18), (5, 5, 8)),
    ],
)
def test_equals_the_complex_formula(space, modes):
    mixer, v = a_mixer(modes), torch.randn(2, 12, *space)
    torch.testing.assert_close(mixer(v).double(), reference(mixer, v, modes), rtol=1e-5, atol=1e-5)


def test_no_dtype_around_it_changes_its_precision():
    mixer, v = a_mixer((8, 5)), torch.randn(2, 12, 8, 8).bfloat16()
    exact = mixer(v.float()).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mixer(v), exact)
    rounded = a_mixer((8, 5)).bfloat16()
    assert rounded(v).dtype == torch.bfloat16
    assert torch.equal(rounded(v), rounded.float()(v.float()).bfloat16())
