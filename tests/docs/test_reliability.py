"""docs/reliability.md: each fault names a test that exists; the example opens a checkpoint."""

import ast
import re
import shutil
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
FAULTS = PAGE.split("\n## Faults\n")[1].split("\n## ")[0]
COLUMNS = ["fault", "what happens", "what is kept", "tests"]
STOPPED = ROOT / "tests" / "golden" / "formats" / "runs" / "stopped"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


TABLES = [
    [cells(line) for line in table.splitlines()]
    for table in re.findall(r"(?:^\|.*\n)+", FAULTS, re.M)
]
ROWS = [row for table in TABLES for row in table[2:]]


@cache
def functions(file: str) -> set[str]:
    """The tests in a file."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_table_has_the_same_columns() -> None:
    assert [table[0] for table in TABLES] == [COLUMNS] * len(TABLES)
    assert len(ROWS) >= 40
    faults = [row[0] for row in ROWS]
    assert len(faults) == len(set(faults))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_tests_of_a_fault_are_there(row: list[str]) -> None:
    assert len(row) == len(COLUMNS)
    assert all(row)
    for named in row[3].split("; "):
        file, tests = named.split(": ")
        for test in tests.split(", "):
            assert test.strip("`") in functions(file.strip("`")), test


def test_the_example_opens_the_newest_checkpoint_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"runs this -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    assert len(found[1].split("\n\n")[1].splitlines()) <= 10
    shutil.copytree(STOPPED, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    exec(compile(found[1], "docs/reliability.md", "exec"), {})
    assert capsys.readouterr().out == "11 2839\n"
