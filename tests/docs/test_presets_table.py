"""The table of presets in docs/training.md is what the presets and the memory estimate say."""

import re
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run, presets
from dpot_scale.engine.memory import GIB
from dpot_scale.runs.resolved import identify, resolve

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
ROWS = {
    name: (windows, gib)
    for name, windows, gib in re.findall(
        r"^\| `(\w+)` \|.*\| ([\d,]+) \| ([\d.]*) ?\|$", PAGE, re.M
    )
}


def test_every_preset_has_a_row() -> None:
    assert sorted(ROWS) == sorted(presets("run"))


@pytest.mark.parametrize("name", ROWS)
def test_its_length_and_memory_are_those_of_the_preset(name: str, tmp_path: Path) -> None:
    config = load_run(name, [f"output={tmp_path}"])
    windows, gib = ROWS[name]
    assert windows == f"{config.windows:,}"
    if gib:
        memory = resolve(identify(config), world_size=1, on_gpu=True).memory.total / GIB
        assert float(gib) == pytest.approx(memory, rel=0.06)
        assert config.batch.accumulation_steps(8) == 1, "8 workers need no accumulation"
