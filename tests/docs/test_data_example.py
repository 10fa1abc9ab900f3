"""The example of docs/data.md makes a dataset that the command below it can train on."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.config.load import load_run
from dpot_scale.data.datasets import open_datasets
from dpot_scale.data.store.verify import verify_dataset

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"runs this -->\n```python\n(.*?)```\n(.*?)```bash\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The code and the command, in an empty folder."""
    assert EXAMPLE is not None
    monkeypatch.chdir(tmp_path)
    return EXAMPLE[1], EXAMPLE[3]


def test_it_is_short(example: tuple[str, str]) -> None:
    lines = [line for line in example[0].splitlines() if line]
    assert len(lines) < 30


def test_it_makes_a_sound_dataset_that_fits_the_command(example: tuple[str, str]) -> None:
    code, command = example
    exec(compile(code, "docs/data.md", "exec"), {})
    python, *arguments = shlex.split(command)
    assert (python, arguments[:2]) == ("python", ["-m", "dpot_scale.train"])
    config = load_run("quickstart", arguments[2:])
    (store,) = open_datasets(config.data, config.model, progress=lambda _: None).values()
    assert verify_dataset(store).problems == []
    assert (store.num_trajectories("train"), store.num_frames("train")) == (30, 20)
    first, last = store.read("test", 0, 0, 1), store.read("test", 0, 19, 1)
    assert np.ptp(last) < np.ptp(first), "heat spreads"
    assert last.mean() == pytest.approx(first.mean(), abs=1e-6), "and is conserved"
