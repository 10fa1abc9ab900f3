"""Between two logs, the host never waits for the device.

On a CPU nothing waits, but the same operations are dispatched as on a GPU: those that a host can
only answer once the device has come to them are counted.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dpot_scale.checkpoints.checkpoint import TrainState
from dpot_scale.config.load import load_run
from dpot_scale.data.datasets import open_datasets
from dpot_scale.data.stream.assembly import Assembler
from dpot_scale.data.stream.mixture import open_mixture
from dpot_scale.data.stream.reader import BatchStream, Share, training_windows
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.start import start_engine
from dpot_scale.runs.micro_batch import random_batches
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.training.console import Console
from dpot_scale.training.loop import Trainer, train_step
from dpot_scale.training.meter import Meter
from dpot_scale.training.noise import Noise
from dpot_scale.training.quarantine import Quarantine
from dpot_scale.training.saving import Saved
from dpot_scale.training.schedule import Schedule

STEPS = 3
# What tells the host a value: operators, and methods that call none.
OPERATORS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero"}
METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}
MINE = {traceback.__file__, __file__}


class Waits:
    """Counts, by the function that asks for it, what a host would have to wait for."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def note(self) -> None:
        frames = reversed(traceback.extract_stack())
        self.found[
            next(f.name for f in frames if "/torch/" not in f.filename and f.filename not in MINE)
        ] += 1


class Operators(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in OPERATORS:
            self.waits.note()
        return func(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METHODS:
            self.waits.note()
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


@pytest.fixture
def waits(tiny_yaml: Path, tmp_path: Path, world: World) -> Callable[..., Counter[str]]:
    """Return a function that trains some steps, which are logged once, and counts."""

    def train(steps: int, *overrides: str) -> Counter[str]:
        options = [f"windows={4 * steps}", "tracking.log_every=1000", "evaluation.every=0"]
        options += ["checkpoint.minutes=0", "checkpoint.every=0"]
        config = load_run(str(tiny_yaml), [*options, *overrides])
        stores = open_datasets(config.data, config.model, progress=lambda _: None)
        windows = training_windows(stores, config.window_frames)
        stream = BatchStream(
            stores,
            open_mixture(windows, config.data, config.seed),
            Share(config.batch),
            Assembler(config.model, config.data, world.device),
            config.window_frames,
        )
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        tracker = Tracker(directory, config.tracking, is_main=True)
        trainer = Trainer(
            config=config,
            world=world,
            engine=start_engine(config, world),
            stream=stream,
            tracker=tracker,
            console=Console(is_main=False, total_steps=config.steps),
            quarantine=Quarantine(config, world),
            evaluate=dict,
            save=lambda state, _: Saved(state.step),
            train_flops_per_window=1.0,
        )
        counted = Waits()
        with Operators(counted), Methods(counted):
            trainer.fit(TrainState())
        stream.close()
        tracker.close()
        return counted.found

    return train


# In DeepSpeed's own step: whether the norm is finite, and by how much to clip.
OF_DEEPSPEED = {
    "zero1_bf16": {"is_invalid_grad_norm": 1, "clip_tensors_by_global_norm": 1},
    "zero2_bf16": {"is_invalid_grad_norm": 2},
    "zero3_bf16": {"is_invalid_grad_norm": 1},
}
# Muon's and Adam's.
OF_TWO_GROUPS = {"zero2_bf16": {"is_invalid_grad_norm": 3}}
ENGINES = {
    "zero0": ["engine.deepspeed=zero0_fp32"],
    "fairscale": ["engine.deepspeed=zero0_fp32", "engine.kind=fairscale"],
    **{name: [f"engine.deepspeed={name}"] for name in OF_DEEPSPEED},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "adam") for name in ENGINES), *((n, "muon") for n in ENGINES if n != "fairscale")],
)
def test_a_step_waits_for_nothing_but_what_deepspeed_does(
    name: str, kind: str, waits: Callable[..., Counter[str]]
) -> None:
    options = [*ENGINES[name], "optim.gradient_clipping=1", "batch.micro_batch=2"]
    options += [f"optim.kind={kind}"]
    few, many = waits(STEPS, *options), waits(2 * STEPS, *options)
    places = OF_DEEPSPEED.get(name, {}) | (OF_TWO_GROUPS.get(name, {}) if kind == "muon" else {})
    per_step = {place: count * STEPS for place, count in places.items()}
    assert many - few == Counter(per_step)
    assert few.keys() - per_step, "a log does wait"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["zero0", "fairscale"])
def test_a_step_on_a_gpu_does_not_synchronise(name: str, tiny_yaml: Path, world: World) -> None:
    config = load_run(str(tiny_yaml), [*ENGINES[name], "optim.gradient_clipping=1"])
    engine, schedule = start_engine(config, world), Schedule.of(config)
    noise = Noise(config.seed, world.device)
    batches, meter = random_batches(config, world), Meter(world, lambda: 0.0)

    def step(number: int) -> None:
        rates = schedule.at(number)
        loss, update = train_step(engine, lambda: batches[0], config, world, rates, noise)
        meter.add(loss, update, config.batch.global_batch, rates.lr)

    step(0)  # makes the state of the optimizer
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(1, 1 + STEPS):
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.reduce(1.0)["train/skipped_steps"] == 0
