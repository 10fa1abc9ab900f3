"""Ranks that differ, or that share no folder, stop before the first step."""

import re
import socket
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dpot_scale.config.identity import Contents
from dpot_scale.config.load import load_run
from dpot_scale.engine.runtime import World
from dpot_scale.errors import UserError
from dpot_scale.runs.agreement import require_agreement_of_ranks
from dpot_scale.runs.resolved import Run

HERE = Path(__file__)


def disagreement(world: World, output: str, **datasets: str) -> str:
    """What is said of ranks that do not share a folder, or read other data."""
    config = load_run("quickstart", ["name=test", f"output={output}"])
    run = Run(config=config, contents=Contents(datasets=datasets), identity="id")
    try:
        with mock.patch("dpot_scale.runs.agreement.PATIENCE_SECONDS", 1):
            require_agreement_of_ranks(run, world)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def in_a_shared_folder(world: World, output: str) -> str:
    return disagreement(world, output, a="1")


def each_in_a_folder_of_its_own(world: World, output: str) -> str:
    return disagreement(world, f"{output}/{world.rank}")


def with_other_data(world: World, output: str) -> str:
    return disagreement(world, output, a=str(world.rank))


def with_data_on_one_rank(world: World, output: str) -> str:
    return disagreement(world, output, **({"a": "1"} if world.rank else {}))


@pytest.mark.distributed
def test_ranks_that_agree_start(tmp_path: Path, ranks: Any) -> None:
    assert ranks.run(HERE, "in_a_shared_folder", str(tmp_path)) == ""


@pytest.mark.distributed
def test_ranks_without_a_shared_folder_stop_before_the_first_step(
    tmp_path: Path, ranks: Any
) -> None:
    host = socket.gethostname()
    assert re.fullmatch(
        rf"ConfigError: rank 1 on {host} does not see in \S+/1/test what rank 0 wrote there, so "
        "that a checkpoint would lack its part: set `output` to a folder that all machines share",
        ranks.run(HERE, "each_in_a_folder_of_its_own", str(tmp_path)),
    )


@pytest.mark.distributed
def test_ranks_with_other_data_stop_before_the_first_step(tmp_path: Path, ranks: Any) -> None:
    host = socket.gethostname()
    mend = "give every machine the same files, or a data.root that all share"
    assert ranks.run(HERE, "with_other_data", str(tmp_path)) == (
        f"ConfigError: rank 1 on {host} has another dataset a (1) than rank 0 on {host} (0): {mend}"
    )
    assert "has another dataset a (1) than rank 0 on" in ranks.run(
        HERE, "with_data_on_one_rank", str(tmp_path)
    )
