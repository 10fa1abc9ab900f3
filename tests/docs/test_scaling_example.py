"""Every sweep that the documentation shows has a plan."""

import re
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.plan_text import plan_table

PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
BLOCKS = {
    f"{page.name}-{number}": block
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    )
    if re.search(r"^(ladder|design):", block, re.M)
}


def test_there_is_one_in_the_page_on_scaling() -> None:
    assert any(name.startswith("scaling.md") for name in BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_it_can_be_planned(name: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(BLOCKS[name])
    sweep = load_sweep(str(file))
    trials = plan(sweep)
    assert plan_table(sweep, trials).count("\n") > len(trials)
