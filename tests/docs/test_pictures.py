"""docs/pictures.py makes the pictures of a sweep small enough for a page."""

import io
import runpy
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "pictures.py"))


def test_a_large_picture_is_made_small_and_stays_what_it_was(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 1, 1400), np.linspace(0, 1, 700))
    wave = np.sin(9 * x + 5 * y)
    before = Image.fromarray((127.5 * (1 + np.stack([wave, -wave, wave**2 - 1], -1))).astype("u1"))
    before.save(tmp_path / "large.png")
    content = PICTURES["shrunk"](tmp_path / "large.png")
    after = Image.open(io.BytesIO(content)).convert("RGB")
    assert after.size == (PICTURES["WIDTH"], PICTURES["WIDTH"] // 2)
    difference = np.subtract(after, before.resize(after.size), dtype=np.int16)
    assert np.abs(difference).mean() < 4, "of 255"
    assert len(content) < (tmp_path / "large.png").stat().st_size
