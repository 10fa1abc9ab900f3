"""A branch that begins at a checkpoint of its trunk computes what it would have alone."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from dpot_scale.checkpoints.branch import take_over
from dpot_scale.checkpoints.checkpoint import committed, has_marker, verify
from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, MARKER, WEIGHTS
from dpot_scale.runs.resolved import identify
from dpot_scale.tracking.spool import SPOOL, read_metrics

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

RECIPE = ("optim.schedule=warmup_stable_decay", "optim.warmup.windows=16", "evaluation.every=0")
TRUNK = (*RECIPE, "windows=128", "checkpoint.keep_at=[12]")  # of 32 steps, 25 before it decays
BRANCH = (*RECIPE, "windows=64")  # of 16 steps, 12 before it decays


def weights(directory: Path) -> dict[str, Any]:
    with safe_open(directory / WEIGHTS, "np") as file:
        return {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118


def test_a_branch_equals_the_same_run_from_its_beginning(start: Any, tiny_yaml: Path) -> None:
    trunk = start("trunk", *TRUNK)
    alone = start("alone_from_its_beginning", *BRANCH)
    assert [run.ended().code for run in (trunk, alone)] == [0, 0]
    run = load_run(str(tiny_yaml), ["name=branch", *BRANCH])
    (shared,) = [c for c in committed(trunk.directory / CHECKPOINTS) if c.state.step == 12]
    found = take_over(shared, run.directory / CHECKPOINTS, identify(run).identity)
    assert committed(run.directory / CHECKPOINTS) == [found]
    assert verify(found) == []
    branch = start("branch", *BRANCH).ended()
    assert branch.code == 0, branch.err
    whole, rest = (
        read_metrics(directory / SPOOL)["train/loss"]
        for directory in (alone.directory, branch.directory)
    )
    assert rest == {step: loss for step, loss in whole.items() if step > 12}
    of_trunk = read_metrics(trunk.directory / SPOOL)["train/loss"]
    assert {step: of_trunk[step] for step in range(1, 14)} == {
        step: whole[step] for step in range(1, 14)
    }
    assert of_trunk[15] != whole[15]
    assert weights(branch.directory) == weights(alone.directory)


def test_what_an_interruption_left_is_done_again(finished: Any, tmp_path: Path) -> None:
    (*_, first) = committed(finished.directory / CHECKPOINTS)
    folder = tmp_path / first.folder.name
    folder.mkdir()
    name = next(iter(first.marker.files))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"half of it")
    assert not has_marker(folder)
    assert verify(take_over(first, tmp_path, "0123456789ab")) == []
    marked = committed(tmp_path)
    assert [one.marker.identity for one in marked] == ["0123456789ab"]
    assert (first.folder / MARKER).read_text() != (folder / MARKER).read_text()
    assert verify(first) == [], "the trunk keeps its own"
