import pytest
import torch
from torch.nn.functional import gelu

from dpot_scale.models.dpot import spectral
from dpot_scale.models.dpot.config import ModeCut
from dpot_scale.models.dpot.spectral import SpectralMixer


def reference(mixer, v, modes, *, symmetric=False):
    """The formula of the paper in complex double precision, head by head."""
    axes = tuple(range(1, v.ndim - 1))
    spectrum = torch.fft.rfftn(v.double(), dim=axes, norm="ortho")
    *full, half = v.shape[1:-1]
    frequencies = [torch.fft.fftfreq(n, 1 / n) if symmetric else torch.arange(n) for n in full]
    kept = torch.ones((), dtype=torch.bool)
    for along, count in zip((*frequencies, torch.arange(half // 2 + 1)), modes, strict=True):
        kept = kept[..., None] & (along.abs() < count)
    kept = kept[None, ..., None]
    mixed = torch.zeros_like(spectrum)
    w1, b1, w2, b2 = (
        torch.complex(*parameter.double()) for parameter in (mixer.w1, mixer.b1, mixer.w2, mixer.b2)
    )
    block = w1.shape[1]
    for head in range(len(w1)):
        channels = slice(head * block, (head + 1) * block)
        x = spectrum[..., channels] @ w1[head] + b1[head]
        x = torch.complex(gelu(x.real), gelu(x.imag)) @ w2[head] + b2[head]
        mixed[..., channels] = x * kept
    return v + torch.fft.irfftn(mixed, s=v.shape[1:-1], dim=axes, norm="ortho")


def a_mixer(modes, dtype=torch.float32, *, symmetric=False):
    torch.manual_seed(0)
    mixer = SpectralMixer(width=12, heads=3, cut=ModeCut(modes, symmetric=symmetric), dtype=dtype)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


FIELDS = [  # latent grid, kept modes
    ((16, 16), (16, 9)),
    ((8, 8), (8, 5)),
    ((8, 8), (3, 2)),
    ((8, 8), (8, 3)),
    ((8, 8), (7, 5)),
    ((8, 6), (8, 4)),
    ((6, 8), (6, 5)),
    ((7, 9), (7, 5)),  # odd sizes have no Nyquist mode
    ((7, 8), (7, 5)),
    ((8, 7), (8, 4)),
    ((2, 2), (2, 2)),
    ((1, 1), (1, 1)),
    ((18, 20), (18, 11)),  # these go through torch.fft
    ((40, 18), (5, 3)),
    ((4, 6, 6), (4, 6, 4)),
    ((6, 6, 18), (5, 5, 8)),
]


@pytest.mark.parametrize(("space", "modes"), FIELDS)
def test_equals_the_complex_formula(space, modes):
    mixer, v = a_mixer(modes), torch.randn(2, *space, 12)
    torch.testing.assert_close(mixer(v).double(), reference(mixer, v, modes), rtol=1e-5, atol=1e-5)
    mixer, v = mixer.double(), v.double()
    torch.testing.assert_close(mixer(v), reference(mixer, v, modes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("space", "modes"), [*FIELDS, ((8, 8), (1, 1)), ((9, 6), (5, 2))])
def test_symmetric_modes_are_all_frequencies_below_a_number(space, modes, monkeypatch):
    mixer = a_mixer(modes, symmetric=True).double()
    v = torch.randn(2, *space, 12).double()
    expected = reference(mixer, v, modes, symmetric=True)
    torch.testing.assert_close(mixer(v), expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(spectral, "MATRIX_POINTS", 0)
    torch.testing.assert_close(mixer(v), expected, rtol=1e-12, atol=1e-12)


def test_one_mixer_takes_fields_of_every_grid():
    mixer = a_mixer((5, 5), symmetric=True).double()
    for space in ((4, 4), (16, 6), (12, 40), (7, 9)):
        v = torch.randn(1, *space, 12).double()
        expected = reference(mixer, v, (5, 5), symmetric=True)
        torch.testing.assert_close(mixer(v), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("space", "modes"), [((8, 8), (8, 5)), ((7, 9), (3, 4)), ((8, 6), (8, 2))])
def test_gradients_are_those_of_the_complex_formula(space, modes):
    mixer, v = a_mixer(modes).double(), torch.randn(2, *space, 12).double().requires_grad_()
    inputs, weight = [v, *mixer.parameters()], torch.randn(2, *space, 12).double()
    found, expected = (
        torch.autograd.grad((output * weight).sum(), inputs)
        for output in (mixer(v), reference(mixer, v, modes))
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_and_fft_agree_in_every_dtype(dtype, monkeypatch):
    mixer = a_mixer((8, 5), dtype).bfloat16()
    v = torch.randn(2, 8, 8, 12).bfloat16()
    by_matrices = mixer(v)
    monkeypatch.setattr(spectral, "MATRIX_POINTS", 0)
    by_fft = mixer(v)
    assert by_matrices.dtype == by_fft.dtype == torch.bfloat16
    assert 0 < (by_matrices - by_fft).norm() / by_fft.norm() < 0.01


def test_precision_is_the_higher_of_input_and_option():
    v = torch.randn(2, 8, 8, 12)
    exact, rounding = a_mixer((8, 5)), a_mixer((8, 5), torch.bfloat16)
    assert torch.equal(exact(v), rounding(v))
    exact, rounding, v = exact.bfloat16(), rounding.bfloat16(), v.bfloat16()
    in_fp32 = exact.float()(v.float())
    assert torch.equal(a_mixer((8, 5)).bfloat16()(v), in_fp32.bfloat16())
    error = (rounding(v).float() - in_fp32).norm() / in_fp32.norm()
    assert 2**-9 < error < 2**-6


def test_autocast_changes_no_precision():
    mixer, v = a_mixer((8, 5)), torch.randn(2, 8, 8, 12)
    exact = mixer(v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mixer(v), exact)


def test_a_first_call_for_inference_leaves_training_possible():
    spectral._cached_transforms.cache_clear()
    mixer, v = a_mixer((8, 5)), torch.randn(2, 8, 8, 12)
    with torch.inference_mode():
        mixer(v)
    mixer(v).sum().backward()
    assert mixer.w1.grad.norm() > 0


def test_a_compiled_mixer_does_not_compute_its_transforms_again():
    graphs = []

    def keep(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    mixer, v = a_mixer((8, 5)), torch.randn(2, 8, 8, 12)
    compiled = torch.compile(mixer, backend=keep)
    torch.testing.assert_close(compiled(v), mixer(v))
    operations = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert len(graphs) == 1
    assert any("baddbmm" in name for name in operations)
    assert not [n for n in operations for part in ("arange", "cos", "sin", "outer") if part in n]
