"""What an interrupted writer leaves, and whether another one may go on with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from dpot_scale.data.store.shards import Shard
from dpot_scale.data.store.written import PROGRESS, Written, read_progress


def half_written(describe, folder: Path) -> Written:
    written = Written(describe("a", ("u", "v")))
    written.shards["train"].append(
        Shard(file="train/shard-00000.h5", trajectories=3, frames=4, sha256="0" * 64)
    )
    written.moments.add(np.arange(32, dtype=np.float32).reshape(2, 2, 2, 4))
    written.save(folder)
    return written


def test_another_writer_goes_on_exactly(describe, tmp_path: Path) -> None:
    written = half_written(describe, tmp_path)
    found = read_progress(tmp_path, written.info)
    assert found is not None
    assert (found.trajectories("train"), found.trajectories("test")) == (3, 0)
    assert found.index() == written.index()
    more = np.full((1, 2, 2, 4), 0.1, np.float32)
    for either in (found, written):
        either.moments.add(more)
    assert found.index() == written.index()


def test_what_is_of_another_dataset_or_damaged_is_nothing(describe, tmp_path: Path) -> None:
    info = half_written(describe, tmp_path).info
    assert read_progress(tmp_path, replace(info, source="another recipe")) is None
    (tmp_path / PROGRESS).write_text((tmp_path / PROGRESS).read_text()[:-20])
    assert read_progress(tmp_path, info) is None
    assert read_progress(tmp_path / "absent", info) is None


def test_an_import_that_an_older_version_began_starts_anew(describe, tmp_path: Path) -> None:
    """It trained on the valid trajectories; a generation had none, and goes on."""
    written = half_written(describe, tmp_path)
    for origin, goes_on in (("imported", False), ("generated", True)):
        info = replace(written.info, origin=origin)
        state = json.loads((tmp_path / PROGRESS).read_text())
        state["index"]["info"]["origin"] = origin
        for version in (1, 2):
            state["index"]["format"] = version
            (tmp_path / PROGRESS).write_text(json.dumps(state))
            assert (read_progress(tmp_path, info) is not None) == (goes_on or version == 2)
