"""A plan that a page prints below its command is the one that the command prints."""

import re
from pathlib import Path

import pytest

from dpot_scale import sweep

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PRINTED = re.compile(
    r"^```bash\npython -m dpot_scale\.sweep (plan[^\n]*)\n```\n\n```text\n(.*?)^```", re.M | re.S
)
PLANS = [
    (page.name, *found)
    for page in PAGES
    for found in PRINTED.findall(page.read_text(encoding="utf-8"))
]


def test_there_is_one_of_a_node_with_8_gpus() -> None:
    assert any("--devices 8" in command for _, command, _ in PLANS)


@pytest.mark.parametrize(("page", "command", "printed"), PLANS)
def test_it_is_as_printed(
    page: str,
    command: str,
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DPOT_SCALE_HOME", raising=False)
    assert sweep.main(command.split()) == 0
    assert capsys.readouterr().out.strip() == printed.strip()


def test_the_plan_of_a_laptop_is_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first lines of what the job prints there."""
    page = next(page for page in PAGES if page.name == "cluster.md").read_text(encoding="utf-8")
    found = re.search(r"^```text\n(sweep quickstart-sweep.*?)^\.\.\.$", page, re.M | re.S)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DPOT_SCALE_HOME", raising=False)
    assert sweep.main(["plan"]) == 0
    assert capsys.readouterr().out.startswith(found[1])


def test_the_first_plan_takes_as_long_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    said = re.search(r"`sweep plan` says (\d+) minutes", readme)
    assert said is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DPOT_SCALE_HOME", raising=False)
    assert sweep.main(["plan"]) == 0
    printed = re.search(r"about ([\d.]+) min one after another", capsys.readouterr().out)
    assert printed is not None
    assert round(float(printed[1])) == int(said[1])
