"""Training computes what it did: every loss and gradient norm of 20 steps, in full digits.

`python tests/golden/test_losses.py` writes them anew: see losses/README.md.
"""

import json
import runpy
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "losses"
RANKS = {"zero0_fp32": 1, "zero3_fp32": 2}
ELSEWHERE = 1e-6  # relative: other kernels add up in another order

losses = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "compare_losses.py"))
)


def trained(folder: Path) -> dict[str, Any]:
    """Train all ways at once."""
    started = {
        name: losses.started(
            str(GOLDEN / "run.yaml"),
            [f"engine.deepspeed={name}", f"data.root={losses.STORE}"],
            output=folder / name,
            ranks=ranks,
        )
        for name, ranks in RANKS.items()
    }
    try:
        return {name: losses.ended(training, folder / name) for name, training in started.items()}
    finally:
        for training in started.values():
            training.terminate()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(tmp_path_factory.mktemp("losses"))


@pytest.mark.distributed
@pytest.mark.parametrize("name", RANKS)
def test_every_step_is_as_it_was(name: str, found: dict[str, Any]) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    curves = {
        key: {int(step): value for step, value in curve.items()}
        for key, curve in golden["curves"].items()
    }
    lines, largest = losses.compare(curves, found[name])
    assert largest <= (0 if golden["machine"] == losses.machine() else ELSEWHERE), lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for name, curves in trained(Path(temporary)).items():
            text = json.dumps({"machine": losses.machine(), "curves": curves}, indent=1)
            (GOLDEN / f"{name}.json").write_text(text + "\n")
