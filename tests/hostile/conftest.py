"""Mutated input: nothing but our own errors, no endless loop, no more memory than a limit.

`DPOT_SCALE_FUZZ_CASES=10000 pytest tests/hostile` tries so many of each kind; by default 200.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CASES_VARIABLE = "DPOT_SCALE_FUZZ_CASES"
MOST_BYTES = 2**30  # that hostile input may have allocated

settings.register_profile(
    "hostile",
    max_examples=int(os.environ.get(CASES_VARIABLE, "200")),
    deadline=None,  # a hang is found by the timeout of the tests
    database=None,
    derandomize=CASES_VARIABLE not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def hostile_profile() -> Iterator[None]:
    settings.load_profile("hostile")
    yield
    settings.load_profile("default")


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Let this process allocate no more than a limit: beyond it, Python raises MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    page = resource.getpagesize()
    used = int(Path("/proc/self/statm").read_text().split()[5]) * page
    resource.setrlimit(resource.RLIMIT_DATA, (used + MOST_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)
