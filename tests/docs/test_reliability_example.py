"""The example of docs/reliability.md opens a checkpoint."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
STOPPED = ROOT / "tests" / "golden" / "formats" / "runs" / "stopped"


def test_it_opens_the_newest_checkpoint_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"runs this -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    assert len(found[1].split("\n\n")[1].splitlines()) <= 10
    shutil.copytree(STOPPED, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    exec(compile(found[1], "docs/reliability.md", "exec"), {})
    assert capsys.readouterr().out == "11 2839\n"
