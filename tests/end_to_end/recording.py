"""Trainings that write down which windows each of their steps has learned from."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# By attempt and step: the position of each window in the stream, and a digest of its frames.
Drawn = dict[str, dict[int, list[tuple[int, str]]]]


def record(file: Path) -> None:
    """Write down every window that this process learns from, when it is about to."""
    from dpot_scale.data.stream.reader import Batch, BatchStream

    file.parent.mkdir(parents=True, exist_ok=True)
    start = BatchStream.start

    def recorded(stream: BatchStream, first_step: int) -> Iterator[Batch]:
        share = stream.share
        micro_steps = share.batch.accumulation_steps(share.world_size)
        with file.open("w") as lines:
            for number, batch in enumerate(start(stream, first_step)):
                step = first_step + number // micro_steps
                for position, frames in zip(batch.positions, batch.frames_BTCxy, strict=True):
                    digest = hashlib.sha256(frames.numpy().tobytes()).hexdigest()
                    print(json.dumps([step, position, digest]), file=lines, flush=True)
                yield batch

    BatchStream.start = recorded  # type: ignore[method-assign]


def train_trial(task: Any) -> Any:
    """Train a trial as a worker of Ray does, and record it beside the folder of its run."""
    from ray.train import get_context

    from dpot_scale.scaling import worker

    context = get_context()
    attempt = task["run"].output.parent / "drawn" / context.get_experiment_name()
    record(attempt / f"rank_{context.get_world_rank()}.jsonl")
    return worker.train_trial(task)


def train() -> int:
    """Train as `python -m dpot_scale.train` does, in a process whose first argument is a file."""
    from dpot_scale.train import main

    record(Path(sys.argv.pop(1)))
    return main()


def drawn(folder: Path) -> Drawn:
    """What was recorded in the folders of attempts."""
    found: Drawn = {}
    for file in sorted(folder.glob("*/*.jsonl")):
        steps = found.setdefault(file.parent.name, {})
        for line in file.read_text().splitlines():
            step, position, digest = json.loads(line)
            steps.setdefault(step, []).append((position, digest))
    return found
