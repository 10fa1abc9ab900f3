"""Limits are checked, and change no identity."""

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.errors import ConfigError
from dpot_scale.runs.resolved import identify

DATA = ["data.suite=null", "data.weights={a: 1}"]


@pytest.mark.parametrize(
    "override",
    ["limits.wall_clock=0", "limits.wall_clock=true", "limits.spike=1", "limits.rollbacks=-1"],
)
def test_a_limit_that_means_nothing_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=", maxsplit=1)[0]):
        load_run("quickstart", [override])


def test_limits_are_no_part_of_what_a_run_is() -> None:
    """So that a run that failed by one continues with another."""
    limits = ["limits.wall_clock=10", "limits.spike=null", "limits.rollbacks=5"]
    plain, limited = (load_run("quickstart", more) for more in ([], limits))
    assert identify(plain).identity == identify(limited).identity
