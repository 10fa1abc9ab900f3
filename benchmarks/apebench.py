"""Ours beside the networks of APEBench, on its data and by its error (Koehler et al. 2024).

APEBench is no dependency of this project. It needs JAX, in a virtual environment of its own:

    python -m venv ape && ape/bin/pip install apebench h5py

There its own solver makes the data, and its own code trains its
own networks, with its own settings but fewer steps:

    ape/bin/python benchmarks/apebench.py OUT write diff_burgers_sc
    ape/bin/python benchmarks/apebench.py OUT baseline "FNO;12;18;4;gelu" --steps 500

And in the environment of this project, ours learns from the same data:

    python benchmarks/apebench.py OUT ours
    python benchmarks/apebench.py OUT table

Every network starts from the same held-out states and forecasts the same frames. Its networks see
the last known frame, ours the last `history` of the known frames.
"""

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
from yardstick import (
    FILES,
    TRUTH,
    Array,
    Commands,
    Row,
    cpu_seconds,
    import_files,
    nrmse,
    ours,
)

POINTS = 64
KNOWN = 4  # held-out frames before the first one that is forecast
LEADS = 100  # as many as APEBench's own summary of a rollout takes
DATASET = "apebench"
SCENARIO = "scenario.json"
# What is laid over the quickstart's recipe. The rest is as in the preset.
OURS: dict[str, Any] = {
    "extends": "quickstart",
    "model": {
        "width": 128,
        "grid": POINTS,
        "history": KNOWN,
        "channels": 1,
    },
    "data": {"suite": None, "weights": {DATASET: 1}},
    "evaluation": {"trajectories": 4, "batch": 4, "rollout_frames": 1},
    "checkpoint": {"every": 0},
    "tracking": {"mlflow_uri": None},
}


def main() -> None:
    """Run one of the commands."""
    commands = Commands("Ours beside the networks of APEBench.")
    command = commands.add("write", write, "make the data of a scenario")
    command.add_argument("scenario", help="for example diff_burgers_sc, diff_ks, phy_kolm_flow")
    command = commands.add("baseline", baseline, "train a network of APEBench")
    command.add_argument("network", help="for example Conv;34;10;relu, UNet;12;2;relu")
    command.add_argument("--steps", type=int, default=10_000)
    command = commands.add("ours", train_ours, "train ours")
    command.add_argument("--name", default="DPOT")
    command.add_argument("--windows", type=int, default=9_600)
    commands.run()


def write(out: Path, scenario: str) -> Row:
    """Solve a scenario and write its files, in The Well's layout, and the held-out frames.

    Returns:
        How the last known frame does as the forecast of all lead times.
    """
    solved = _scenario(scenario)
    train_NTCs, test_NTCs = (
        np.asarray(data) for data in (solved.get_train_data(), solved.get_test_data())
    )
    if not (np.isfinite(train_NTCs).all() and np.isfinite(test_NTCs).all()):
        raise SystemExit(f"{scenario} is not finite at {POINTS} x {POINTS}: choose another")
    write_well(out / FILES / "train" / f"{DATASET}.hdf5", train_NTCs)
    # All files of a dataset have equally many frames. The forecasts go on beyond them.
    write_well(out / FILES / "test" / f"{DATASET}.hdf5", test_NTCs[:, : train_NTCs.shape[1]])
    truth_NTCs = test_NTCs[:, KNOWN:]
    np.save(out / TRUTH, truth_NTCs)
    (out / SCENARIO).write_text(json.dumps(scenario))
    print(f"{scenario}: {train_NTCs.shape} to learn from, {test_NTCs.shape} to forecast, in {out}")
    return Row(
        network="persistence",
        parameters=0,
        steps=0,
        batch=0,
        history=1,
        cpu_seconds=0.0,
        flops=0.0,
        errors=nrmse(test_NTCs[:, KNOWN - 1 : KNOWN], truth_NTCs).tolist(),
    )


def write_well(path: Path, frames_NTCs: Array) -> None:
    """Write trajectories of scalar fields on a periodic unit square in The Well's layout."""
    trajectories, frames, fields, *grid = frames_NTCs.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(dataset_name=DATASET, n_trajectories=trajectories)
        file.create_group("boundary_conditions").create_group("periodic")
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        dimensions["time"] = np.arange(frames, dtype=np.float32)
        for axis, points in zip(("x", "y"), grid, strict=True):
            dimensions[axis] = (np.arange(points) + 0.5) / points
        scalars = file.create_group("t0_fields")
        file.create_group("t1_fields")
        for field in range(fields):
            array = scalars.create_dataset(f"u{field}", data=frames_NTCs[:, :, field])
            array.attrs.update(sample_varying=True, time_varying=True, dim_varying=[True, True])


def baseline(out: Path, network: str, steps: int) -> Row:
    """Train a network of APEBench with its own code, and score its rollouts."""
    import equinox
    import exponax
    import jax

    scenario = _scenario(json.loads((out / SCENARIO).read_text()), steps)
    trainer = scenario.get_trainer(train_config="one")
    key, shuffle = jax.random.split(jax.random.PRNGKey(0))
    untrained = scenario.get_neural_stepper(task_config="predict", network_config=network, key=key)
    before = cpu_seconds()
    stepper, *_ = trainer(untrained, shuffle, spawn_tqdm=False)
    spent = cpu_seconds() - before
    rollout = equinox.filter_jit(jax.vmap(exponax.rollout(stepper, LEADS)))
    with h5py.File(out / FILES / "test" / f"{DATASET}.hdf5") as file:
        last_known = np.stack([field[:, KNOWN - 1] for field in file["t0_fields"].values()], 1)
    forecast, truth = np.asarray(rollout(last_known)), np.load(out / TRUTH)
    errors = nrmse(forecast, truth)
    # Its own code says the same.
    np.testing.assert_allclose(errors, _own_errors(forecast, truth), rtol=1e-4)
    return Row(
        network=network,
        parameters=scenario.get_parameter_count(network),
        steps=steps,
        batch=scenario.batch_size,
        history=1,
        cpu_seconds=spent,
        flops=steps * _step_flops(trainer, untrained),
        errors=errors.tolist(),
    )


def train_ours(out: Path, name: str, windows: int) -> Row:
    """Train ours on the same data, and score its rollouts."""
    if not (out / "data" / DATASET).exists():
        import_files(out, DATASET)
    return ours(out, name, OURS, windows, KNOWN)


def _scenario(name: str, steps: int = 10_000) -> Any:  # noqa: ANN401  # no types without APEBench
    """Return a scenario of APEBench in 2D; the warm-up keeps its share of fewer steps."""
    return _package().scenarios.scenario_dict[name](
        num_spatial_dims=2,
        num_points=POINTS,
        test_temporal_horizon=KNOWN - 1 + LEADS,
        optim_config=f"adam;{steps};warmup_cosine;0.0;1e-3;{steps // 5}",
    )


def _package() -> ModuleType:
    """Import APEBench, which has the name of this script."""
    here = Path(__file__).parent
    sys.path = [entry for entry in sys.path if Path(entry).absolute() != here.absolute()]
    return importlib.import_module("apebench")


def _own_errors(forecast_NTCs: Array, truth_NTCs: Array) -> Array:
    import exponax
    import jax

    of_lead = partial(exponax.metrics.mean_metric, exponax.metrics.nRMSE)
    return np.asarray(jax.vmap(of_lead, in_axes=1)(forecast_NTCs, truth_NTCs))


def _step_flops(trainer: Any, stepper: Any) -> float:  # noqa: ANN401
    """Return what XLA counts for one training step, before it optimises."""
    import equinox
    import jax

    data = trainer.trajectory_sub_stacker(np.arange(trainer.batch_size))
    arrays, rest = equinox.partition(stepper, equinox.is_array)
    state = trainer.optimizer.init(arrays)

    def step(arrays: Any, data: Array) -> Any:  # noqa: ANN401
        return equinox.filter(
            trainer.step_fn(equinox.combine(arrays, rest), state, data), equinox.is_array
        )

    return float(jax.jit(step).lower(arrays, data).cost_analysis()["flops"])


if __name__ == "__main__":
    main()
