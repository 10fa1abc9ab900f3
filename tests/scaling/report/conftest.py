"""Results with known numbers, and the index and the costs of datasets: a report reads no more."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import FIGURES, resolve_sweep_paths
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.cost import write_cost
from dpot_scale.evaluation.evaluator import DatasetEvaluation
from dpot_scale.evaluation.example import Example
from dpot_scale.evaluation.frames import Shown, save_frames
from dpot_scale.evaluation.scores import DatasetScore
from dpot_scale.scaling.plan import Trial, plan
from tests.results import finish as finish_trial
from tests.results import score_of

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


PERSISTENCE = {"ns": 0.4, "dr": 0.2}


def _planned(tmp_path: Path, *overrides: str) -> tuple[SweepConfig, tuple[Trial, ...]]:
    sweep = resolve_sweep_paths(load_sweep("quickstart", overrides), tmp_path)
    return sweep, plan(sweep)


def _finish(
    trial: Trial,
    rel_l2: float,
    *,
    bad_on: str = "",
    valid_rel_l2: float | None = None,
    lead_times: tuple[float, ...] = (),
) -> None:
    """Write a result whose rollout errors are rel_l2 on both datasets; ns may have a valid one."""
    scores = {
        name: DatasetScore(
            rel_l2=2 * persistence if name == bad_on else rel_l2,
            one_step_rel_l2=rel_l2 / 2,
            persistence_rel_l2=persistence,
            persistence_one_step_rel_l2=persistence / 2,
        )
        for name, persistence in PERSISTENCE.items()
    }
    finish_trial(
        trial,
        datasets=dict.fromkeys(PERSISTENCE, "0123456789ab"),
        seconds=90.0,
        windows_per_second=12.5,
        peak_memory_gib=1.5,
        final_train_loss=rel_l2,
        evaluation=scores,
        valid={"ns": scores["ns"].model_copy(update={"rel_l2": valid_rel_l2})}
        if valid_rel_l2 is not None
        else {},
        lead_times=dict.fromkeys(PERSISTENCE, lead_times) if lead_times else {},
        forward_seconds=dict.fromkeys(trial.run.data.weights, 0.02),
    )


def _keep_frames(trial: Trial, dataset: str, *, points: int = 16, leads: int = 5) -> None:
    """Write frames of a field that grows, and a forecast that is 0.5 too high."""
    info = DatasetInfo(
        name=dataset,
        equation="reaction_diffusion",
        channels=("u",),
        scored=(True,),
        spatial_axes=("x", "y"),
        grid=(points, points),
        domain_length=(2.0, 1.0),
        frame_interval=0.5,
        boundary="periodic",
        origin="generated",
        source="a test",
    )
    xy = np.linspace(0, 1, points)[:, None] * np.ones(points)
    truth_LCxy = (xy * np.arange(1, leads + 1)[:, None, None])[:, None].astype(np.float32)
    example = Example(
        leads=tuple(range(1, leads + 1)), truth_LCs=truth_LCxy, forecast_LCs=truth_LCxy + 0.5
    )
    shown = Shown(info=info, times=tuple(0.5 * n for n in range(1, leads + 1)), example=example)
    evaluation = DatasetEvaluation(
        info=info,
        score=score_of(0.1, persistence=0.2),
        rel_l2_L=np.ones(leads, np.float32),
        persistence_rel_l2_L=np.ones(leads, np.float32),
        example_leads=example.leads,
        example_truth_LCs=truth_LCxy,
        example_forecast_LCs=truth_LCxy,
        shown=shown,
    )
    save_frames(trial.run.directory / FIGURES, {dataset: evaluation})


@pytest.fixture
def keep_frames() -> Callable[..., None]:
    """Write the frames that a trial keeps of a dataset."""
    return _keep_frames


@pytest.fixture
def planned() -> Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]:
    """Return the quickstart sweep in a folder, with overrides, and its trials."""
    return _planned


@pytest.fixture
def finish() -> Callable[..., None]:
    """Write the result of a trial."""
    return _finish
