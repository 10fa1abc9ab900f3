"""The train and sweep commands of the documentation name presets and keys that exist."""

import re
import shlex
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run, load_sweep, presets
from dpot_scale.config.model import FAMILIES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "cluster" / "README.md"]
LINES = [
    line.partition(" #")[0].strip()
    for page in PAGES
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    for line in block.splitlines()
]
COMMAND = re.compile(r"(?:dpot_scale\.|dpot_scale/)(train|sweep)(?:\.py)?\b(.*)")
COMMANDS = sorted({found[0] for line in LINES if (found := COMMAND.search(line))})
# Of `sweep plan`, beside its config.
OPTIONS = r"--(?:device|devices|price|budget) \S+|--(?:json|watch)\b|>.*"
VERBS = {"plan", "run", "status", "report", "cancel", "TRIAL"}


def test_there_are_some() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS)
def test_its_config_can_be_loaded(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The family that docs/how-to/model-family.md adds.
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "end_to_end"))
    monkeypatch.setitem(FAMILIES, "toy", "toy_family")
    found = COMMAND.match(command)
    assert found is not None
    words = [word for word in shlex.split(re.sub(OPTIONS, "", found[2])) if word not in VERBS]
    source = "quickstart"
    if "--config" in words:
        place = words.index("--config")
        source = words[place + 1]
        words = words[:place] + words[place + 2 :]
    load, kind = (load_run, "run") if found[1] == "train" else (load_sweep, "sweep")
    if source.endswith(".yaml"):
        source = "quickstart"  # a reader's own file
    assert source in presets(kind)  # type: ignore[arg-type]
    load(source, [word.replace("$noise", "0.01") for word in words])
