"""Every command of docs/transfer.md runs, one after the other, with a small model and few steps."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "transfer.md").read_text(encoding="utf-8")
RELEASED = ROOT / "tests" / "golden" / "official_format_small.pth"
BLOCKS = re.findall(r"runs this -->\n```(bash|python)\n(.*?)^```", PAGE, re.M | re.S)
# The released file of the tests is smaller than Ti, and few steps are enough.
SMALL = "model.size=debug model.depth=2 model.out_layer_dim=32"
SHORT = "windows=16 batch.global_batch=8 batch.micro_batch=8 evaluation.every=0"

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The weights and the arrays that the page starts with."""
    shutil.copy(RELEASED, tmp_path / "model_Ti.pth")
    (tmp_path / "flow").mkdir()
    x = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    for part in (1, 2):
        phase = 0.3 * np.arange(12 + part)[:, None, None] + part * x[:, None] + x
        waves = np.stack([np.sin(phase), np.cos(phase)], axis=-1)  # (frames, x, y, channels)
        np.save(tmp_path / "flow" / f"part_{part}.npy", np.stack([waves, -waves, 2 * waves]))
    return tmp_path


@pytest.fixture
def processes(folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """What was started; the server outlives its block, and ends with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        try:
            os.killpg(process.pid, 15)
        except ProcessLookupError:
            continue


def test_every_block_runs(folder: Path, processes: list[subprocess.Popen[str]]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    assert len(BLOCKS) == 7
    for number, (language, code) in enumerate(BLOCKS):
        small = code.replace("5001", port).replace("model.size=Ti", SMALL).replace("=64", "=32")
        small = small.replace("windows=60000", SHORT).replace("steps=1000", "steps=3")
        command = ["bash", "-e", "-c"] if language == "bash" else [sys.executable, "-c"]
        log = folder / f"block_{number}.log"  # a pipe would stay open as long as the server
        with log.open("w") as out:
            process = subprocess.Popen(
                [*command, small],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        processes.append(process)
        assert process.wait(400) == 0, f"{code}\n{log.read_text()}"
    made = {path.name for path in (folder / "flow_model").iterdir()}
    assert made == {"README.md", "config.json", "model.safetensors"}
    assert "('u', 'v') 10" in (folder / "block_3.log").read_text()


def test_the_replacements_still_apply() -> None:
    for text in ("5001", "model.size=Ti", "model.grid=64", "windows=60000", "steps=1000"):
        assert text in PAGE
