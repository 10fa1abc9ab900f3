"""What another version wrote is refused by one sentence, and never taken for damage or absence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.checkpoints.checkpoint import committed
from dpot_scale.config.places import INPUTS
from dpot_scale.data.store.index import read_index
from dpot_scale.errors import CheckpointError, DataError, RecordError, UserError
from dpot_scale.runs.contents import recorded
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.journal import Journal
from dpot_scale.tracking.spool import newest_record, open_spool, read_metrics

FORMATS = Path(__file__).parent / "formats"

# Of each format: a file of it, how it is read, and the kind of error.
Case = tuple[str, Callable[[Path], object], type[UserError]]
OBJECTS: list[Case] = [
    ("store/swe_coarse/index.json", read_index, DataError),
    (
        "runs/stopped/checkpoints/step_000011/COMMITTED.json",
        lambda path: committed(path.parents[1]),
        CheckpointError,
    ),
    ("runs/finished/result.json", lambda path: read_result(path.parent), RecordError),
]
# The first version wrote none that is still compared.
SECOND: Case = (f"runs/finished/{INPUTS}", lambda path: recorded(path.parent), RecordError)
CONTENTS = {"format": 2, "contents": {"dataset swe_coarse": "0123456789ab"}}
LINES: list[Case] = [
    ("runs/sweep/journal.jsonl", lambda path: Journal(path.parent).entries(), RecordError),
    ("runs/finished/metrics.jsonl", read_metrics, RecordError),
    ("runs/finished/metrics.jsonl", open_spool, RecordError),
    (
        "runs/finished/metrics.jsonl",
        lambda path: newest_record(path, containing="train/loss"),
        RecordError,
    ),
]
CASES = [*OBJECTS, *LINES]
STRICT = [*OBJECTS, SECOND, LINES[0]]  # in the others any key is a metric


def written(case: Case, folder: Path, **more: object) -> Path:
    """Copy the files of the first version, and say more in the one of a case."""
    root = shutil.copytree(FORMATS, folder / "formats")
    path = root / case[0]
    (root / SECOND[0]).write_text(json.dumps(CONTENTS))
    lines = path.read_text().splitlines() if case in LINES else [path.read_text()]
    changed = [json.dumps(json.loads(line) | more) if line else line for line in lines]
    path.write_text("\n".join(changed) + "\n")
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_first_version_is_read_whether_it_says_so_or_not(case: Case, tmp_path: Path) -> None:
    _, read, _ = case
    assert read(written(case, tmp_path / "absent"))
    assert read(written(case, tmp_path / "said", format=1))


@pytest.mark.parametrize("case", [*CASES, SECOND], ids=lambda case: case[0])
def test_a_newer_version_is_one_sentence(case: Case, tmp_path: Path) -> None:
    _, read, kind = case
    with pytest.raises(kind) as refused:
        read(written(case, tmp_path, format=99))
    check(refused, r"its format is 99, and this version reads 1.*")


@pytest.mark.parametrize("case", STRICT, ids=lambda case: case[0])
def test_an_unknown_field_is_one_sentence(case: Case, tmp_path: Path) -> None:
    _, read, kind = case
    with pytest.raises(kind) as refused:
        read(written(case, tmp_path, colour="red"))
    check(refused, r"it has colour, which this version does not know")


def check(refused: pytest.ExceptionInfo[Any], reason: str) -> None:
    shape = (
        rf"\S.* was written by another version of dpot_scale \({reason}\): use the version that "
    )
    assert refused.match(shape + "wrote it$")
