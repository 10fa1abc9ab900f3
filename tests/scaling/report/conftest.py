"""The index and the costs of a dataset, without its data: a report reads no more."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dpot_scale.data.store.cost import write_cost

Describe = Callable[..., None]


@pytest.fixture
def describe_dataset() -> Describe:
    """Write the index of a dataset, and its costs where they are known."""

    def describe(
        root: Path,
        name: str,
        shards: Sequence[tuple[int, int]],
        seconds: Sequence[float | None] = (),
    ) -> None:
        """Write shards of so many training trajectories and frames each."""
        info = {
            "name": name,
            "equation": "reaction_diffusion",
            "channels": ["u"],
            "scored": [True],
            "spatial_axes": ["x", "y"],
            "grid": [16, 16],
            "domain_length": [1.0, 1.0],
            "frame_interval": 0.5,
            "boundary": "periodic",
            "origin": "generated",
            "source": "a test",
        }
        train = [
            {"file": f"train/{i}.h5", "trajectories": n, "frames": frames, "sha256": "0" * 64}
            for i, (n, frames) in enumerate(shards)
        ]
        index = {
            "format": 2,
            "info": info,
            "statistics": {"mean": [0.0], "std": [1.0]},
            "splits": {"train": train, "test": [{**train[0], "file": "test/0.h5"}]},
        }
        (root / name).mkdir(parents=True)
        (root / name / "index.json").write_text(json.dumps(index))
        if seconds:
            write_cost(root / name, {"train": seconds, "test": [9.0]})

    return describe
