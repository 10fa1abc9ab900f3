"""What tests of benchmarks/soak.py share."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PARTS = (
    *("archive", "checks", "data", "faults", "leaks", "plan", "report", "round", "runs", "servers"),
)
MODULES = ("soak", *(f"soak_{part}" for part in PARTS))


@pytest.fixture(scope="module")
def soak() -> Iterator[Any]:
    """All names of all its modules."""
    sys.path.insert(0, str(FOLDER))
    found = [importlib.import_module(name) for name in MODULES]
    yield SimpleNamespace(**{name: value for one in found for name, value in vars(one).items()})
    sys.path.remove(str(FOLDER))
