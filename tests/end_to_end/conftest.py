"""What all tests of whole commands share."""

import contextlib
from collections.abc import Iterator

import psutil
import pytest


@pytest.fixture(scope="module", autouse=True)
def no_sweep_is_left() -> Iterator[None]:
    """Kill the sweeps that a failed test has left; they would take the cores of later tests."""
    yield
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "dpot_scale.sweep" in child.cmdline():
                child.kill()  # the processes of Ray that it has started end with it
