"""The small files beside runs, sweeps, datasets and forecasts, and the shards of a checkpoint."""

import contextlib
import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpot_scale.checkpoints.shards import open_state
from dpot_scale.config.places import CHECKPOINTS, INPUTS, JOURNAL
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.data.generation.solved import SECONDS, _read_seconds
from dpot_scale.data.store.cost import COST, read_cost
from dpot_scale.data.store.dataset import read_store
from dpot_scale.data.store.published import RECORD as PUBLISHED
from dpot_scale.data.store.published import check_published
from dpot_scale.data.store.written import PROGRESS, read_progress
from dpot_scale.errors import RecordError, UserError
from dpot_scale.evaluation.frames import read_frames
from dpot_scale.evaluation.scores import read_scores
from dpot_scale.runs import micro_batch
from dpot_scale.runs.contents import recorded
from dpot_scale.runs.outcome import DEEPSPEED_CONFIG, require_same_layout
from dpot_scale.runs.signs import FOLDER as SIGNS
from dpot_scale.runs.signs import Sign, given_up, newest_attempt, read_sign
from dpot_scale.scaling.earlier import POINT, _point
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.rates import RATES, read_rates
from dpot_scale.scaling.report.predictions import FORETOLD, kept
from dpot_scale.scaling.speeds import SPEEDS, known_speeds
from dpot_scale.tracking.record import RECORD, read_mlflow_record
from dpot_scale.tracking.spool import SPOOL, newest_record, open_spool, read_metrics

mutations = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("mutations.py"))))

FORMATS = Path(__file__).parents[1] / "golden" / "formats"
TIME = "2026-11-26T05:21:58.746394Z"
TOO_DEEP = b"[" * 100_000 + b"\n"
STORE = FORMATS / "store" / "swe_coarse"


def spool(folder: Path) -> None:
    with contextlib.suppress(UserError):
        newest_record(folder / SPOOL, containing="train/loss")
    with contextlib.suppress(UserError):
        read_metrics(folder / SPOOL)
    open_spool(folder / SPOOL).close()


def signs(folder: Path) -> None:
    newest_attempt(folder)
    given_up(folder, 0)
    sign = read_sign(folder, 0)
    if sign is not None:
        assert not sign.is_here
        assert sign.who.startswith("rank ")


def layout(folder: Path) -> None:
    """Go on from a checkpoint beside what DeepSpeed is said to have got."""
    if not (folder / CHECKPOINTS).exists():
        (folder / CHECKPOINTS).symlink_to(FORMATS / "runs" / "stopped" / CHECKPOINTS)
    config = SimpleNamespace(directory=folder, engine=SimpleNamespace(kind="deepspeed"))
    require_same_layout(SimpleNamespace(config=config, deepspeed=SHARDING))  # type: ignore[arg-type]


def of_a_store(read: Callable[[object], object]) -> Callable[[Path], object]:
    """What a reader makes of a file beside the index of a dataset."""

    def reader(folder: Path) -> object:
        with contextlib.closing(read_store(folder)) as store:
            return read(store)

    return reader


SIGN = Sign(attempt=1, rank=0, place="node/pid:[1]", pid=7, started="1", beats=3, at="in _train")
SHARDING = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}}

# File -> its good content, as JSON values of one or several lines, and its reader.
RECORDS: dict[str, tuple[list[object], Callable[[Path], object]]] = {
    SPOOL: (
        [{"step": step, "time": 1.5, "train/loss": 0.5, "train/lr": 1e-3} for step in (1, 2, 3)],
        spool,
    ),
    RECORD: (
        [
            {
                "format": 1,
                "directory": "/runs/a",
                "uri": "sqlite:////runs/mlflow.db",
                "experiment": "e",
                "key": "k",
                "name": "a",
                "params": {"a": "1"},
                "tags": {"b": "2"},
                "begun": 1.5,
                "status": "FINISHED",
                "artifacts": {"config.yaml": ""},
            }
        ],
        read_mlflow_record,
    ),
    JOURNAL: (
        [
            {"time": TIME, "trial": "a", "event": event, "attempt": 1, "reason": ""}
            for event in ("started", "failed", "finished")
        ],
        lambda folder: Journal(folder).newest(),
    ),
    SPEEDS: (
        [
            {
                "format": 2,
                "machine": "m",
                "device": "cpu",
                "family": "dpot",
                "dtype": "fp32",
                "workers": 2,
                "parameters": 1000,
                "flops_per_second": 1e9,
            }
        ],
        lambda folder: known_speeds(folder, ResourcesConfig(gpus_per_worker=0)),
    ),
    FORETOLD: (
        [{"time": TIME, "value": 0.5, "low": 0.25, "high": 1.0, "law": "a law", "trials": 4}],
        kept,
    ),
    RATES: (
        [
            {
                "time": TIME,
                "trials": ["a", "b"],
                "family": "dpot",
                "of": "width",
                "at": 64.0,
                "lr": 1e-3,
                "power": -0.5,
                "found": [],
            }
        ],
        read_rates,
    ),
    POINT: (
        [{"format": 1, "label": "a", "factors": {"size": "a", "windows": 96}}],
        lambda folder: _point(folder, 96),
    ),
    INPUTS: ([{"format": 2, "contents": {"dataset a": "0123456789ab"}}], recorded),
    COST: ([{"format": 1, "seconds": {"train": [0.5, None], "test": [0.25]}}], read_cost),
    PUBLISHED: (
        [{"format": 1, "files": [{"name": "a.h5", "md5": "0" * 32}]}],
        of_a_store(check_published),
    ),
    PROGRESS: (
        [
            {
                "index": json.loads((STORE / "index.json").read_text()),
                "moments": {"counts": [1.0], "means": [0.5], "squares": [0.25]},
            }
        ],
        of_a_store(lambda store: read_progress(store.folder, store.info)),
    ),
    f"{SIGNS}/rank_0": ([asdict(SIGN)], signs),
    "answer.json": ([2], lambda folder: micro_batch._read(folder / "answer.json")),
    SECONDS: ([[[0, 0.5], [1, 0.25]]], lambda folder: _read_seconds(folder / SECONDS)),
    DEEPSPEED_CONFIG: ([SHARDING], layout),
    "scores.json": (
        [
            {
                "format": 2,
                "weights": "a.safetensors",
                "config": "quickstart",
                "evaluation": {
                    "swe": {
                        "rel_l2": 0.25,
                        "one_step_rel_l2": 0.1,
                        "persistence_rel_l2": 0.5,
                        "persistence_one_step_rel_l2": 0.2,
                    }
                },
            }
        ],
        lambda folder: read_scores(folder / "scores.json"),
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_odd_records(name: str, tmp_path: Path) -> None:
    good, reader = RECORDS[name]
    folder = shutil.copytree(STORE, tmp_path / "folder")
    (folder / name).parent.mkdir(exist_ok=True)
    text = "".join(f"{json.dumps(value)}\n" for value in good).encode()
    lines = mutations.mutated_json(good).map(
        lambda raw: "".join(
            f"{json.dumps(value)}\n" for value in (raw if isinstance(raw, list) else [raw])
        ).encode()
    )

    @given(st.one_of(lines, mutations.mutated_bytes(text, head=10**6)))
    def try_one(content: bytes) -> None:
        (folder / name).write_bytes(content)
        with contextlib.suppress(UserError):
            reader(folder)

    (folder / name).write_bytes(text)
    reader(folder)
    (folder / name).write_bytes(TOO_DEEP)
    with contextlib.suppress(UserError):
        reader(folder)
    try_one()


def test_odd_frames(tmp_path: Path) -> None:
    about = {
        "format": 1,
        "info": json.loads((STORE / "index.json").read_text())["info"],
        "leads": [1, 2],
        "times": [0.5, 1.0],
    }
    frames = np.zeros((2, 2, 8, 8), np.float32)
    file = tmp_path / "frames_swe.npz"

    def write(raw: object, shape: tuple[int, ...] = frames.shape) -> None:
        said = np.frombuffer(json.dumps(raw).encode(), np.uint8)
        np.savez(file, about=said, truth=np.zeros(shape, np.float32), forecast=frames)

    write(about)
    content = file.read_bytes()

    @given(mutations.mutated_json(about), st.sampled_from([(2, 2, 8, 8), (2, 2), (1, 2, 8, 8)]))
    def try_values(raw: object, shape: tuple[int, ...]) -> None:
        write(raw, shape)
        with contextlib.suppress(UserError):
            read_frames(tmp_path)

    @given(mutations.mutated_bytes(content, head=len(content)))
    def try_bytes(odd: bytes) -> None:
        file.write_bytes(odd)
        with contextlib.suppress(UserError):
            read_frames(tmp_path)

    try_values()
    try_bytes()


@pytest.mark.parametrize(
    ("place", "value"),
    [(6, 255), (8, 1), (8, 32), (10, 77)],
    ids=["a later version", "encrypted", "patched", "another compression"],
)
def test_frames_in_a_zip_file_that_python_does_not_know(
    place: int, value: int, tmp_path: Path
) -> None:
    file = tmp_path / "frames_swe.npz"
    np.savez(file, about=np.zeros(1, np.uint8))
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + place] = value
    file.write_bytes(content)
    with pytest.raises(RecordError, match="holds no frames of a forecast"):
        read_frames(tmp_path)


def test_frames_that_are_no_arrays(tmp_path: Path) -> None:
    file = tmp_path / "frames_swe.npz"
    np.savez(file, about=np.zeros(1, np.uint8))
    file.write_bytes(file.read_bytes().replace(b"\x93NUMPY", b"\x92NUMPY"))
    with pytest.raises(RecordError, match="holds no frames of a forecast"):
        read_frames(tmp_path)


def test_odd_shards(tmp_path: Path) -> None:
    checkpoint = FORMATS / "fourth" / "finished" / "checkpoints" / "step_000024"
    folder = shutil.copytree(checkpoint, tmp_path / "step_000024")
    shard = folder / "shards" / "rank_00000.safetensors"
    good = shard.read_bytes()

    @given(mutations.mutated_bytes(good))
    def try_one(content: bytes) -> None:
        shard.write_bytes(content)
        with contextlib.suppress(UserError):
            stored = open_state(folder)
            for name in stored.shapes:
                stored.whole(name)

    try_one()
