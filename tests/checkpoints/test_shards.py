"""The files of ranks: any number gives back one state, and nothing else is taken for one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpot_scale.checkpoints.shards import masters, open_state, shard_file, write_shard
from dpot_scale.engine.state import ADAM_STEPS, OF_ADAM, WEIGHT, Part, Snapshot
from dpot_scale.errors import CheckpointError

SHAPES = {"a": (3, 5), "b": (4,), "frozen": (2, 2)}
VALUES = {
    (WEIGHT, "a"): torch.arange(15.0),
    (OF_ADAM, "a"): torch.arange(15.0) / 7,
    (WEIGHT, "b"): torch.tensor([1e-30, -0.0, 3.4e38, torch.inf]),
    (OF_ADAM, "b"): torch.zeros(4),
    (WEIGHT, "frozen"): torch.tensor([1.0, 2, 3, 4], dtype=torch.bfloat16),
}


def save(folder: Path, ranks: int, values: dict[tuple[str, str], Tensor] = VALUES) -> None:
    """Cut each parameter among ranks as stage 3 does."""
    (folder / "shards").mkdir(parents=True)
    for rank in range(ranks):
        parts = []
        for (kind, name), value in values.items():
            size = -(-len(value) // ranks)
            if len(some := value[rank * size :][:size]):
                parts.append(Part(name, kind, rank * size, some))
        write_shard(folder / shard_file(rank), Snapshot(SHAPES, parts, {ADAM_STEPS: 7}))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
def test_any_number_of_files_gives_back_what_was_saved(ranks: int, tmp_path: Path) -> None:
    save(tmp_path, ranks)
    stored = open_state(tmp_path)
    assert stored.shapes == SHAPES
    assert stored.numbers == {ADAM_STEPS: 7}
    for (kind, name), value in VALUES.items():
        assert stored.read(kind, name).tolist() == value.float().tolist()
        for start in range(len(value)):
            for end in range(start, len(value) + 1):
                some = stored.read(kind, name, start, end - start)
                assert some.tolist() == value[start:end].float().tolist()
    assert [(name, one.shape, one.read().shape) for name, one in masters(tmp_path).items()] == [
        (name, shape, shape) for name, shape in SHAPES.items()
    ]


def test_a_state_without_moments_is_whole(tmp_path: Path) -> None:
    """No step was applied yet."""
    save(tmp_path, 2, {key: value for key, value in VALUES.items() if key[0] == WEIGHT})
    assert open_state(tmp_path).kinds.keys() == {WEIGHT}


def test_a_state_is_refused_that_lacks_something(tmp_path: Path) -> None:
    save(tmp_path / "file", 3)
    (tmp_path / "file" / shard_file(1)).unlink()
    save(tmp_path / "weight", 1, {key: VALUES[key] for key in VALUES if key[1] != "b"})
    save(tmp_path / "numbers", 1, {**VALUES, (OF_ADAM, "a"): torch.zeros(14)})
    save(tmp_path / "twice", 1)
    twice = (tmp_path / "twice" / shard_file(0)).read_bytes()
    (tmp_path / "twice" / shard_file(1)).write_bytes(twice)
    save(tmp_path / "unknown", 1, {**VALUES, (WEIGHT, "c"): torch.zeros(1)})
    for folder in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match="does not hold the files of a checkpoint"):
            open_state(folder)


def rewritten(path: Path, change: dict[str, Any]) -> None:
    """Change the metadata of a file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] |= change
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_a_newer_format_is_one_sentence(tmp_path: Path) -> None:
    save(tmp_path, 1)
    rewritten(tmp_path / shard_file(0), {"format": "2"})
    with pytest.raises(CheckpointError, match="its format is 2, and this version reads 1"):
        open_state(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "[" * 100_000},
        {"shapes": "[]"},
        {"shapes": '{"a": [-3, -5]}'},
        {"shapes": '{"a": "three"}'},
        {"starts": '{"a": 1e400}'},
        {"starts": "{}"},
        {"numbers": "seven"},
    ],
)
def test_metadata_that_make_no_sense_are_one_sentence(
    change: dict[str, str], tmp_path: Path
) -> None:
    save(tmp_path, 1)
    rewritten(tmp_path / shard_file(0), change)
    with pytest.raises(CheckpointError, match="does not hold the files of a checkpoint"):
        open_state(tmp_path)


def test_a_file_cut_anywhere_is_one_sentence(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / shard_file(0)
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="does not hold the files of a checkpoint"):
            open_state(tmp_path)
