"""Markers of checkpoints, results of runs, and what a run skips."""

import contextlib
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpot_scale.checkpoints.checkpoint import committed, newest_intact, open_checkpoint, verify
from dpot_scale.checkpoints.weights import find
from dpot_scale.config.places import MARKER, QUARANTINE, RESULT_FILE, ROLLBACKS
from dpot_scale.errors import UserError
from dpot_scale.runs.result import read_result
from dpot_scale.runs.rollbacks import read_rollbacks
from dpot_scale.training.quarantine import read_quarantine

mutations = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("mutations.py"))))

RUNS = Path(__file__).parents[1] / "golden" / "formats" / "runs"
SKIPS = {"format": 1, "rollbacks": [{"step": 3, "first": 8, "end": 12, "reason": "a spike"}]}

UNREAD = {"position": 3, "stand_in": 4, "dataset": "swe", "trajectory": 1, "frame": 0, "stride": 1}
UNREAD |= {"file": "shard.h5", "reason": "it is cut"}


def open_all(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    if checkpoint is not None:
        verify(checkpoint)
    committed(folder.parent)
    newest_intact(folder.parent)


READERS: dict[str, Callable[[Path], object]] = {
    MARKER: open_all,
    RESULT_FILE: read_result,
    ROLLBACKS: read_rollbacks,
    QUARANTINE: read_quarantine,
}


@pytest.mark.parametrize("name", READERS)
def test_odd_records(name: str, tmp_path: Path) -> None:
    checkpoints = RUNS / "stopped" / "checkpoints"
    folder = shutil.copytree(checkpoints, tmp_path / "checkpoints") / "step_000011"
    good = {
        MARKER: (folder / MARKER).read_bytes(),
        RESULT_FILE: (RUNS / "finished" / RESULT_FILE).read_bytes(),
        ROLLBACKS: json.dumps(SKIPS).encode(),
        QUARANTINE: json.dumps({"format": 1, "windows": [UNREAD]}).encode(),
    }[name]
    odd_value = mutations.mutated_json(json.loads(good)).map(lambda raw: json.dumps(raw).encode())

    @given(st.one_of(odd_value, mutations.mutated_bytes(good, head=10**6)))
    def try_one(content: bytes) -> None:
        (folder / name).write_bytes(content)
        with contextlib.suppress(UserError):
            READERS[name](folder)
        with contextlib.suppress(UserError):
            find(folder)

    try_one()
