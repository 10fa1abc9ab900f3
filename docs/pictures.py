"""Renew the pictures of README.md: `python docs/pictures.py runs/quickstart-sweep runs/law`.

They are what the finished sweeps drew, made small for a page: the law and a forecast of the first,
and the summary of the second, of `benchmarks/law.yaml`.
"""

import io
import sys
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).with_name("images")
LARGEST = 150_000  # bytes
WIDTH = 900
COLORS = 128
FORECAST = "trials/Ti_*/figures/rollout_ns2d_fno_1e-3_generated.png"


def shrunk(path: Path) -> bytes:
    """Return a PNG file of at most WIDTH pixels across, with a palette of COLORS."""
    picture = Image.open(path).convert("RGB")
    if picture.width > WIDTH:
        height = round(picture.height * WIDTH / picture.width)
        picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()


def main(quickstart: Path, law: Path) -> None:
    """Write pictures from the directories of two sweeps into docs/images/."""
    (forecast,) = quickstart.glob(FORECAST)
    pictures = {
        "law.png": law / "summary.png",
        "scaling.png": quickstart / "scaling.png",
        "rollout.png": forecast,
    }
    IMAGES.mkdir(exist_ok=True)
    for name, path in pictures.items():
        content = shrunk(path)
        assert len(content) <= LARGEST, f"{name}: {len(content)} bytes"
        (IMAGES / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
