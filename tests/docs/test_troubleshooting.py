"""Each sentence that docs/troubleshooting.md quotes is still one that the code says."""

import ast
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SENTENCES = [
    sentence
    for row in re.findall(r"^\| (`[^|]+`) \|", PAGE, re.M)
    for sentence in re.findall(r"`([^`]+)`", row)
]
VARIES = "…"
OF_OTHERS = re.findall(r"^- `([^`]+)` \((ray|mlflow|deepspeed)\b", PAGE, re.M)


def texts(tree: ast.AST) -> Iterator[str]:
    """All text that a module says, with VARIES for what an f-string fills in; no docstrings."""
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if node in docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (str(v.value) if isinstance(v, ast.Constant) else VARIES for v in node.values)
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def code() -> str:
    files = sorted((ROOT / "dpot_scale").rglob("*.py"))
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in files)
    return "\n".join(text.replace("\n", " ") for tree in trees for text in texts(tree))


@pytest.mark.parametrize(("message", "package"), OF_OTHERS)
def test_another_program_still_says_it(message: str, package: str) -> None:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    places = spec.submodule_search_locations
    found = subprocess.run(["grep", "-rqF", "--include=*.py", message, *places], check=False)
    assert found.returncode == 0


def test_there_are_some() -> None:
    assert len(SENTENCES) >= 80
    assert len(OF_OTHERS) >= 5


@pytest.mark.parametrize("sentence", SENTENCES)
def test_it_is_in_the_code(sentence: str, code: str) -> None:
    parts = (re.escape(part.strip()) for part in sentence.split(VARIES))
    assert re.search(".*".join(parts), code), sentence
