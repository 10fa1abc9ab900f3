"""Renew the pictures of README.md: `python docs/pictures.py runs/quickstart-sweep`.

They are the law and the forecast that the finished sweep drew, made small for a page.
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


def main(sweep: Path) -> None:
    """Write the pictures of a sweep's directory into docs/images/."""
    (forecast,) = sweep.glob(FORECAST)
    IMAGES.mkdir(exist_ok=True)
    for path, name in ((sweep / "scaling.png", "scaling.png"), (forecast, "rollout.png")):
        content = shrunk(path)
        assert len(content) <= LARGEST, f"{name}: {len(content)} bytes"
        (IMAGES / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
