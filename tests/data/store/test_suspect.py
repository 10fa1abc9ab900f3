"""What no solver computes is found, and what is genuine is let through."""

from collections.abc import Callable

import numpy as np
import pytest

from dpot_scale.data.store.suspect import TrajectoryCheck

Frames = np.ndarray  # (T, C, x, y)


def sentences(frames: Frames, scored: tuple[bool, ...] = (), piece: int = 100) -> list[str]:
    channels = tuple("abcdef"[: frames.shape[1]])
    check = TrajectoryCheck(channels, scored or (True,) * len(channels))
    for first in range(0, len(frames), piece):
        check.add(frames[first : first + piece].astype(np.float32))
    return check.sentences()


def noise(*shape: int) -> Frames:
    return np.random.default_rng(0).standard_normal(shape)


def changed(place: tuple[int, ...] | int | slice, value: float, frames: Frames) -> Frames:
    frames = frames.copy()
    frames[place] = value
    return frames


@pytest.mark.parametrize("piece", [1, 2, 100])
@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (changed((3, 1, 4, 5), 2e7, noise(6, 2, 16, 16)), "2e+07 in b, frame 3, at (4, 5)"),
        (changed((0, 0, 0, 0), 2e7, noise(6, 2, 16, 16)), "2e+07 in a, frame 0, at (0, 0)"),
        (changed((5, 0, 0, 0), -2e7, noise(6, 1, 6, 4)), "-2e+07 in a, frame 5"),
        (changed((2, 0, 3, 3), 2e7, 1e5 + noise(4, 1, 16, 16)), "2e+07 in a, frame 2"),
        (changed((2, 0, 3), 2e7, noise(4, 1, 64)), "2e+07 in a, frame 2, at (3,)"),
        (changed((2, 0, 3, 3, 3), 2e7, noise(4, 1, 8, 8, 8)), "frame 2, at (3, 3, 3)"),
        (changed((slice(None), 0, 3, 3), 2e7, noise(4, 1, 8, 8)), "at (3, 3), where no value"),
        (
            changed((1, 0, 3, 3), 2e7, np.where(noise(4, 1, 32, 32) > 2, 1.0, 0.0)),
            "2e+07 in a, frame 1",
        ),
        (changed(3, 0.0, noise(6, 2, 8, 8)), "is zero everywhere in frame 3, after frames"),
        (changed(slice(3, 6), 0.0, noise(6, 1, 8, 8)), "zero everywhere in frames 3 to 5"),
        (np.zeros((4, 1, 8, 8)), "is zero everywhere"),
    ],
)
def test_what_no_solver_computes(frames: Frames, expected: str, piece: int) -> None:
    (sentence,) = sentences(frames, piece=piece)
    assert expected in sentence


def at_rest() -> Frames:
    """A fluid that begins to move in frame 3; its density and pressure are the same everywhere."""
    frames = np.zeros((8, 4, 16, 16))
    frames[3:, :2] = noise(5, 2, 16, 16)
    frames[:, 2:] = 1.0
    return frames


def velocities_at_rest() -> Frames:
    return at_rest()[:, :2]


def smoke() -> Frames:
    """Smoke and velocities; the air rests at first."""
    frames = noise(6, 3, 16, 16)
    frames[0, 1:] = 0
    return frames


def sparse() -> Frames:
    """Spots of 1 here and there; at one time there is none."""
    frames = np.where(noise(8, 1, 32, 32) > 2.5, 1.0, 0.0)
    frames[4] = 0
    return frames


def spreading_source(dt: float = 1.0) -> Frames:
    """Heat from one cell, in a medium that is not quite even."""
    k = 2 * np.pi * np.fft.fftfreq(32)
    decay = np.exp(-(k[:, None] ** 2 + k**2) * dt * np.arange(6)[:, None, None])
    start = 1e-6 * noise(32, 32)
    start[10, 10] += 1e4
    return np.fft.ifft2(np.fft.fft2(start) * decay).real[:, None]


def narrow_blob() -> Frames:
    """Most of it is below any precision: exp(-r^2) from 1 to 1e-200."""
    x = np.arange(32) - 16.0
    blob = np.exp(-(x[:, None] ** 2 + x**2))
    return np.stack([np.roll(blob, step, axis=0) for step in range(5)])[:, None]


def explosion() -> Frames:
    """A hot bubble, a shock and a vacuum: eight orders of magnitude."""
    x = np.arange(32) - 16.0
    r = np.hypot(x[:, None], x)
    return np.stack(
        [np.where(r < 1.5 + t, 1e8, 1.0) * (1 + 0.1 * noise(32, 32)) for t in range(5)]
    )[:, None]


def decays_to_zero() -> Frames:
    return noise(1, 1, 16, 16) * 10.0 ** -np.linspace(0, 60, 8)[:, None, None, None]


def darcy() -> Frames:
    """A coefficient of two values, then a solution that is zero at the walls."""
    frames = np.zeros((2, 1, 16, 16))
    frames[0] = np.where(noise(1, 16, 16) > 0, 1.0, 0.1)
    frames[1, 0, 1:-1, 1:-1] = 0.07 + 0.01 * noise(14, 14)
    return frames


def rounding() -> Frames:
    """A density of 1 but for rounding, and one cell in which a wave begins."""
    frames = 1 + 1e-7 * noise(4, 1, 16, 16)
    frames[1, 0, 5, 5] = 1.01
    return frames


GENUINE: list[Callable[[], Frames]] = [
    at_rest,
    velocities_at_rest,
    smoke,
    sparse,
    spreading_source,
    narrow_blob,
    explosion,
    decays_to_zero,
    darcy,
    rounding,
]


@pytest.mark.parametrize("piece", [1, 100])
@pytest.mark.parametrize("make", GENUINE)
def test_what_is_genuine_is_let_through(make: Callable[[], Frames], piece: int) -> None:
    assert sentences(make(), piece=piece) == []


def test_what_is_no_field_is_not_looked_at() -> None:
    frames = noise(5, 2, 8, 8)
    frames[2, 1, 3, 3] = 2e7
    assert sentences(frames, scored=(True, False)) == []
    assert "in b, frame 2" in sentences(frames)[0]
