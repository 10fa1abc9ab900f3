"""The loop: what it does when, what it is shown, and why it stops."""

import errno
import math
import os
import shutil
import signal
from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor, nn

from dpot_scale.checkpoints.store import TrainState
from dpot_scale.config.load import load_run
from dpot_scale.config.places import QUARANTINE
from dpot_scale.config.run import RunConfig
from dpot_scale.data.datasets import open_datasets
from dpot_scale.data.store import open_files
from dpot_scale.data.store.open_files import OpenFiles
from dpot_scale.data.stream import patience
from dpot_scale.data.stream.assembly import Assembler
from dpot_scale.data.stream.mixture import open_mixture
from dpot_scale.data.stream.reader import BatchStream, Share, training_windows
from dpot_scale.engine.engine import Rates, Update
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.state import Snapshot, StoredState
from dpot_scale.errors import (
    DiskError,
    LostPeerError,
    SharedDataError,
    SharedMachineError,
    UserError,
)
from dpot_scale.models.forecaster import Forecast
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.tracking.tracker import Tracker
from dpot_scale.training.console import Console
from dpot_scale.training.loop import MAX_SKIPPED_IN_A_ROW, Trainer
from dpot_scale.training.quarantine import Quarantine, read_quarantine
from dpot_scale.training.saving import Saved
from dpot_scale.training.watch import Verdict

STEPS = 6


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


class Plain:
    """An engine of one weight and plain gradient descent, which keeps what it was shown."""

    def __init__(self, accumulation_steps: int) -> None:
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.accumulation_steps = accumulation_steps
        self.seen: list[list[Tensor]] = [[]]  # per step
        self.rates: list[Rates] = []
        self.moves = True
        self.at_step: Callable[[int], None] = lambda _: None
        self.overflows: Container[int] = ()  # steps whose gradient is not finite
        self.breaks: Container[int] = ()  # steps whose loss is not finite either

    def train(self) -> None:
        pass

    def eval(self) -> None:
        pass

    def __call__(self, history: Tensor, /) -> Forecast:
        self.seen[-1].extend(history.detach().clone())  # a batch is overwritten
        factor = torch.inf if len(self.seen) - 1 in self.breaks else 1
        return Forecast(frames=self.weight * factor * history[:, -1:], logits=torch.empty(0))

    def backward(self, loss: Tensor) -> None:
        (loss / self.accumulation_steps).backward()

    def step(self, rates: Rates) -> Update:
        assert self.weight.grad is not None
        step_index = len(self.seen) - 1
        self.rates.append(rates)
        norm = self.weight.grad.abs() * (torch.inf if step_index in self.overflows else 1)
        with torch.no_grad():
            if self.moves and norm.isfinite():
                self.weight -= 0.01 * self.weight.grad
        self.weight.grad = None
        self.seen.append([])
        self.at_step(step_index)
        return Update(norm, norm.isfinite())

    def snapshot(self) -> Snapshot:
        raise NotImplementedError

    def load_state(self, stored: StoredState) -> None:
        raise NotImplementedError

    def save_shards(self, folder: Path) -> None:
        raise NotImplementedError

    def load_shards(self, folder: Path) -> None:
        raise NotImplementedError

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        raise NotImplementedError

    def load_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        raise NotImplementedError


class Saves:
    """Keeps what it is given to save."""

    def __init__(self) -> None:
        self.states: list[TrainState] = []
        self.weights: list[float] = []

    def save(self, engine: Plain, state: TrainState) -> Saved:
        self.states.append(state)
        self.weights.append(engine.weight.item())
        return Saved(state.step)

    @property
    def steps(self) -> list[int]:
        return [state.step for state in self.states]


class Loop:
    """A trainer with collaborators that can be looked into."""

    def __init__(self, config: RunConfig, world: World, directory: Path) -> None:
        stores = open_datasets(config.data, config.model, progress=lambda _: None)
        frames = config.window_frames
        self.stream = BatchStream(
            stores,
            open_mixture(training_windows(stores, frames), config.data, config.seed),
            Share(config.batch, world.rank, world.world_size),
            Assembler(config.model, config.data, world.device),
            frames,
        )
        self.directory = directory
        alone = World(rank=0, local_rank=0, world_size=1, device=world.device)
        own = config.model_copy(update={"output": directory})
        self.engine = Plain(config.batch.accumulation_steps(world.world_size))
        self.saves = Saves()
        self.evaluated: list[int] = []
        self.tracker = Tracker(directory, config.tracking, is_main=True)
        self.trainer = Trainer(
            config=config,
            world=world,
            engine=self.engine,
            stream=self.stream,
            tracker=self.tracker,
            console=Console(is_main=False, total_steps=config.steps),
            quarantine=Quarantine(own, alone),
            evaluate=self.evaluate,
            save=lambda state, _: self.saves.save(self.engine, state),
            train_flops_per_window=1.0,
        )

    def evaluate(self) -> Mapping[str, float]:
        self.evaluated.append(len(self.engine.seen) - 1)
        return {"eval/mean/rel_l2": 1.0}

    def fit(self, step: int = 0) -> tuple[Verdict, TrainState]:
        try:
            return self.trainer.fit(TrainState(step=step))
        finally:
            self.stream.close()
            self.tracker.close()

    @property
    def curves(self) -> dict[str, dict[int, float]]:
        return read_metrics(self.directory / SPOOL)

    @property
    def losses(self) -> dict[int, float]:
        return self.curves.get("train/loss", {})


@pytest.fixture
def loop(tiny_yaml: Path, tmp_path: Path, world: World) -> Callable[..., Loop]:
    def make(*overrides: str, world: World = world) -> Loop:
        defaults = [f"windows={4 * STEPS}", "checkpoint.every=0", "evaluation.every=0"]
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        return Loop(load_run(str(tiny_yaml), [*defaults, *overrides]), world, directory)

    return make


def test_everything_is_done_at_the_end(loop: Callable[..., Loop]) -> None:
    made = loop("tracking.log_every=100")
    assert made.fit() == (Verdict.FINISHED, TrainState(step=STEPS))
    assert (list(made.losses), made.evaluated, made.saves.steps) == ([STEPS], [STEPS], [STEPS])


def test_everything_is_done_as_often_as_asked(loop: Callable[..., Loop]) -> None:
    made = loop("tracking.log_every=1", "evaluation.every=2", "checkpoint.every=4")
    made.fit()
    assert list(made.losses) == [1, 2, 3, 4, 5, 6]
    used = {step: rates.lr for step, rates in enumerate(made.engine.rates, start=1)}
    assert made.curves["train/lr"] == used
    assert made.evaluated == [2, 4, 6]
    assert made.saves.steps == [4, 6]


def test_a_milestone_is_saved_whatever_else_is_due(loop: Callable[..., Loop]) -> None:
    made = loop("checkpoint.every=4", "checkpoint.keep_every=3")
    made.fit()
    assert made.saves.steps == [3, 4, 6]


def test_an_evaluation_that_fails_at_the_end_loses_no_training(loop: Callable[..., Loop]) -> None:
    made = loop()

    def fail() -> Mapping[str, float]:
        raise RuntimeError

    made.trainer.evaluate = fail
    with pytest.raises(RuntimeError):
        made.fit()
    assert made.saves.steps == [STEPS]


@pytest.mark.parametrize("kind", [SharedDataError, SharedMachineError])
def test_held_out_data_that_cannot_be_read_lose_no_training(
    kind: type[UserError], loop: Callable[..., Loop], caplog: pytest.LogCaptureFixture
) -> None:
    """Scores on the way are left out and said; those at the end must be there."""
    made = loop("evaluation.every=2", "checkpoint.every=100", "tracking.log_every=100")

    def refuse() -> Mapping[str, float]:
        raise kind("a held-out file is damaged")

    made.trainer.evaluate = refuse
    with pytest.raises(kind):
        made.fit()
    assert (list(made.losses), made.saves.steps) == ([STEPS], [STEPS])
    said = [f"step {step} has no scores: a held-out file is damaged" for step in (2, 4)]
    assert caplog.messages == said


def test_a_disk_that_is_full_for_a_while_ends_nothing(
    loop: Callable[..., Loop], caplog: pytest.LogCaptureFixture
) -> None:
    made = loop("checkpoint.every=1")
    steps_without_room = {2, 3}

    def save(state: TrainState, must: bool) -> Saved:
        if state.step in steps_without_room:
            raise DiskError("No space left on device: make room there and start again")
        return made.saves.save(made.engine, state)

    made.trainer.save = save
    assert made.fit()[0] is Verdict.FINISHED
    assert made.saves.steps == [1, 4, 5, 6]
    assert (
        caplog.messages
        == [
            "No space left on device: make room there; training goes on and saves when the next "
            "checkpoint is due, until then a restart goes back to step 1"
        ]
        * 2
    )
    assert made.curves["checkpoint/save_seconds"].keys() == {1, 4, 5, 6}


def test_a_save_that_failed_in_a_thread_is_heard_soon_and_costs_no_other(
    loop: Callable[..., Loop], caplog: pytest.LogCaptureFixture
) -> None:
    made = loop("checkpoint.every=3", "tracking.log_every=100")
    begun: list[int] = []

    def save(state: TrainState, must: bool) -> Saved:
        """Begin to write a state; the first one finds no room, as the next call says."""
        if begun == [3]:
            begun.append(0)
            raise DiskError("No space left on device: make room there and start again")
        begun.append(state.step)
        return Saved(0)

    made.trainer.save = save
    made.trainer.save_has_failed = lambda: begun == [3] and len(made.engine.seen) > 4
    assert made.fit()[0] is Verdict.FINISHED
    assert begun == [3, 0, 6]
    (message,) = caplog.messages
    assert message.endswith("until then a restart goes back to step 0")
    assert list(made.losses) == [3, 4, 6], "it is heard with the next vote"


def spoil(made: Loop, folder: Path, *trajectories: int) -> None:
    """Make some training trajectories of the first dataset of a loop unreadable, in a copy."""
    store = next(iter(made.stream.stores.values()))
    store.folder = Path(shutil.copytree(store.folder, folder / store.folder.name))
    with h5py.File(next((store.folder / "train").glob("*.h5")), "r+") as file:
        for trajectory in trajectories:
            file["fields"][trajectory] = math.nan


def test_windows_that_cannot_be_read_are_counted(loop: Callable[..., Loop], tmp_path: Path) -> None:
    made = loop("tracking.log_every=2", "limits.unreadable=0.9")
    spoil(made, tmp_path / "data", 0, 1)
    assert made.fit()[0] is Verdict.FINISHED
    found = read_quarantine(made.directory / "tiny")
    assert found
    assert {one.trajectory for one in found} <= {0, 1}
    counts = made.curves["data/quarantined"]
    by_then = {step: sum(one.position < 4 * step for one in found) for step in counts}
    assert counts == by_then
    assert max(counts.values()) == len(found)
    assert all(math.isfinite(loss) for loss in made.losses.values())


def test_a_checkpoint_is_not_ahead_of_the_record_of_its_windows(
    loop: Callable[..., Loop], tmp_path: Path
) -> None:
    made = loop("limits.unreadable=0.9", "evaluation.every=4", "checkpoint.every=4")
    spoil(made, tmp_path / "data", 0, 1)
    blocked = made.directory / "tiny" / f"{QUARANTINE}.partial"
    blocked.mkdir(parents=True)  # as on a full disk: it cannot be written
    recorded: list[int] = []

    def free() -> Mapping[str, float]:
        if blocked.exists():  # after a record, before a save
            blocked.rmdir()
        return {}

    def save(state: TrainState, _: bool) -> Saved:
        recorded.append(len(read_quarantine(made.directory / "tiny")))
        return Saved(state.step)

    made.trainer.evaluate, made.trainer.save = free, save
    assert made.fit()[0] is Verdict.FINISHED
    counts = made.curves["data/quarantined"]
    assert recorded == [counts[4], max(counts.values())]
    assert counts[4] > 0


def test_too_many_of_them_end_a_run_which_saves_before(
    loop: Callable[..., Loop], tmp_path: Path
) -> None:
    made = loop("tracking.log_every=1", "windows=240")
    spoil(made, tmp_path / "data", 0, 1, 2)
    with pytest.raises(SharedDataError) as ended:
        made.fit()
    step = made.saves.steps[-1]
    assert step == max(made.losses) < 60
    assert len(read_quarantine(made.directory / "tiny")) > 2
    said = r"\d+ of the 240 windows of the run could not be read, more than limits.unreadable=0.01 "
    said += r"of them, in \S*shard-00000.h5; first of these: .* in train trajectory [012] .*"
    assert ended.match(rf"{said}; the run stopped after step {step}: mend")


def test_nothing_is_left_to_do(loop: Callable[..., Loop]) -> None:
    made = loop()
    assert made.fit(step=STEPS)[0] is Verdict.FINISHED
    assert (made.losses, made.evaluated, made.saves.steps) == ({}, [], [])


def test_a_checkpoint_follows_when_the_time_since_the_last_is_over(
    loop: Callable[..., Loop],
) -> None:
    made = loop("checkpoint.minutes=60", "checkpoint.every=4")
    an_hour_ago = made.trainer._saved - 3600.0

    def an_hour_passes_in_the_third(step: int) -> None:
        if step == 2:
            made.trainer._saved = an_hour_ago

    made.engine.at_step = an_hour_passes_in_the_third
    made.fit()
    assert made.saves.steps == [3, 4, 6]


def test_only_the_main_ranks_clock_counts(loop: Callable[..., Loop], world: World) -> None:
    other = World(rank=1, local_rank=1, world_size=2, device=world.device)
    for rank, saves in ((world, list(range(1, STEPS + 1))), (other, [STEPS])):
        made = loop("checkpoint.minutes=1e-9", "batch.micro_batch=1", world=rank)
        made.fit()
        assert made.saves.steps == saves


@pytest.mark.parametrize("log_every", [1, 4, 5])
@pytest.mark.parametrize("saving", ["checkpoint.every=3", "checkpoint.minutes=1e-9"])
def test_losses_after_a_resume_are_those_of_an_uninterrupted_run(
    log_every: int, saving: str, loop: Callable[..., Loop]
) -> None:
    """Whatever the log interval: it starts anew at each checkpoint."""
    options = [f"tracking.log_every={log_every}", saving]
    whole, resumed = loop(*options), loop(*options)
    whole.fit()
    resumed.engine.weight.data.fill_(whole.saves.weights[whole.saves.steps.index(3)])
    resumed.fit(step=3)
    later = {step: loss for step, loss in whole.losses.items() if step > 3}
    assert resumed.losses == later
    assert resumed.engine.weight.item() == whole.engine.weight.item()


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_signal_stops_after_the_step_and_saves(log_every: int, loop: Callable[..., Loop]) -> None:
    made = loop(f"tracking.log_every={log_every}")
    handler = signal.getsignal(signal.SIGTERM)

    def kill_at_third(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    made.engine.at_step = kill_at_third
    assert made.fit() == (Verdict.STOPPED, TrainState(step=3))
    assert made.saves.steps == [3]
    assert max(made.losses) == 3
    assert signal.getsignal(signal.SIGTERM) is handler


def damaged_while_it_trains(made: Loop, folder: Path) -> None:
    """Cut all shards of a loop, in a copy, while it makes its first step."""
    for store in made.stream.stores.values():
        shutil.copytree(store.folder, folder / store.folder.name)
        store.folder = folder / store.folder.name

    def damage(step: int) -> None:
        for shard in folder.glob("*/train/*.h5"):
            shard.write_bytes(shard.read_bytes()[:1000])
        for store in made.stream.stores.values():
            store.close()

    made.engine.at_step = damage


def test_data_that_cannot_be_read_stop_the_run_before_the_next_update(
    loop: Callable[..., Loop], tmp_path: Path
) -> None:
    """The step in which they were met is void: it is neither counted nor kept."""
    made = loop("tracking.log_every=100", "checkpoint.every=4", "batch.micro_batch=1")
    damaged_while_it_trains(made, tmp_path / "data")
    sentence = r"cannot read .*train/shard-00000.h5 .*; the run stopped after step \d: mend"
    with pytest.raises(SharedDataError, match=sentence):
        made.fit()
    last = max(made.losses)
    assert 0 < last < STEPS
    assert made.saves.states[-1] == TrainState(step=last)
    assert len(made.saves.steps) == len(set(made.saves.steps)), "none is saved twice"
    assert all(math.isfinite(loss) for loss in made.losses.values())


def on_a_full_disk(tried: list[bool], state: TrainState, must: bool) -> Saved:
    tried.append(must)
    raise DiskError("No space left on device: make room there and start again")


def test_bad_data_stay_the_reason_where_the_steps_before_cannot_be_saved(
    loop: Callable[..., Loop], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no later save: it is tried as the last one, and the sentence says what is lost."""
    made = loop("tracking.log_every=100", "batch.micro_batch=1")
    damaged_while_it_trains(made, tmp_path / "data")
    tried: list[bool] = []
    made.trainer.save = partial(on_a_full_disk, tried)
    lost = r"which could not be saved, so a restart goes back to before it \(No space .* again\)"
    sentence = rf"cannot read .*; the run stopped after step \d, {lost}: mend the data and start it"
    with pytest.raises(SharedDataError, match=sentence):
        made.fit()
    assert tried == [True, True]
    assert caplog.messages == [], "nothing says that training goes on"


def test_a_stop_that_cannot_be_saved_says_so(loop: Callable[..., Loop]) -> None:
    made = loop("tracking.log_every=100")
    made.trainer.told_to_stop = lambda: len(made.engine.seen) > 3
    tried: list[bool] = []
    made.trainer.save = partial(on_a_full_disk, tried)
    with pytest.raises(DiskError) as ended:
        made.fit()
    assert str(ended.value) == (
        f"the run was stopped as it was told at step 3 of {STEPS}, which could not be saved, so a "
        "restart goes back to before it (No space left on device: make room there and start again)"
    )
    assert tried == [True, True]


def test_a_machine_that_cannot_read_its_data_stops_the_run_and_blames_no_data(
    loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No window is replaced, and nothing is asked of the data."""
    made = loop("tracking.log_every=100", "checkpoint.every=4", "batch.micro_batch=1")
    monkeypatch.setattr(patience, "WAITS", ())

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def take(step: int) -> None:
        monkeypatch.setattr(open_files, "open_hdf5", refuse)
        monkeypatch.setattr(OpenFiles, "array", refuse)

    made.engine.at_step = take
    sentence = r"cannot read .*Too many open files.*start again; the run stopped after step \d$"
    with pytest.raises(SharedMachineError, match=sentence):
        made.fit()
    last = max(made.losses)
    assert 0 < last < STEPS
    assert made.saves.states[-1] == TrainState(step=last)


def test_a_run_that_is_told_to_stop_saves(loop: Callable[..., Loop]) -> None:
    """As a worker of Ray is, whose training gets no signals."""
    made = loop("tracking.log_every=100")
    made.trainer.told_to_stop = lambda: len(made.engine.seen) > 3
    assert made.fit() == (Verdict.STOPPED, TrainState(step=3))
    assert made.saves.steps == [3]
    assert max(made.losses) == 3


def test_a_second_sigterm_does_not_end_the_last_save(loop: Callable[..., Loop]) -> None:
    made = loop()
    made.engine.at_step = lambda _: os.kill(os.getpid(), signal.SIGTERM)

    def save_slowly(state: TrainState, must: bool) -> Saved:
        os.kill(os.getpid(), signal.SIGTERM)
        return made.saves.save(made.engine, state)

    made.trainer.save = save_slowly
    assert made.fit()[0] is Verdict.STOPPED
    assert made.saves.steps == [1]


def test_handlers_are_given_back_when_the_loop_fails(loop: Callable[..., Loop]) -> None:
    made = loop()
    handler = signal.getsignal(signal.SIGTERM)

    def fail(step: int) -> None:
        raise RuntimeError

    made.engine.at_step = fail
    with pytest.raises(RuntimeError):
        made.fit()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_launcher_that_ends_the_others_is_not_why_a_run_lost_a_peer(
    loop: Callable[..., Loop],
) -> None:
    made = loop()
    handler = signal.getsignal(signal.SIGTERM)

    def lose(step: int) -> None:
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:1] Broken pipe")

    made.engine.at_step = lose
    try:
        with pytest.raises(LostPeerError):
            made.fit()
        os.kill(os.getpid(), signal.SIGTERM)  # as the launcher does while the rest is closed
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_what_is_not_finite_is_never_saved(loop: Callable[..., Loop]) -> None:
    made = loop("tracking.log_every=100", "checkpoint.every=1")
    made.engine.breaks = range(3, STEPS)
    assert made.fit()[0] is Verdict.DIVERGED
    assert list(made.losses) == made.saves.steps == [1, 2, 3]


def test_a_signal_waits_for_a_step_that_may_be_saved(loop: Callable[..., Loop]) -> None:
    made = loop()
    made.engine.breaks = [2, 3]
    made.engine.at_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None
    assert made.fit() == (Verdict.STOPPED, TrainState(step=5))
    assert made.saves.steps == [5]


def test_skipped_steps_are_counted_and_left_out_of_means(loop: Callable[..., Loop]) -> None:
    each, together, straight = (loop(f"tracking.log_every={every}") for every in (1, 3, 1))
    for made in (each, together):
        made.engine.overflows = [1, 2, 5]  # the last one too: its loss is finite
        assert made.fit()[0] is Verdict.FINISHED
        assert made.saves.steps == [STEPS]
        assert all(math.isfinite(v) for curve in made.curves.values() for v in curve.values())
    straight.fit()
    assert each.losses.keys() == {1, 4, 5}
    assert each.losses[1] == straight.losses[1]
    assert each.losses[4] != straight.losses[4], "the weights stayed behind"
    assert together.losses == {
        3: each.losses[1],
        6: pytest.approx((each.losses[4] + each.losses[5]) / 2, rel=1e-6),
    }
    assert together.curves["train/skipped_steps"] == {3: 2, 6: 1}


def test_an_interval_without_an_update_has_no_loss(loop: Callable[..., Loop]) -> None:
    made = loop("tracking.log_every=3")
    made.engine.overflows = range(3)
    assert made.fit()[0] is Verdict.FINISHED
    assert made.losses.keys() == made.curves["train/grad_norm"].keys() == {6}
    assert made.curves["train/skipped_steps"] == {3: 3, 6: 0}
    assert made.curves["train/lr"].keys() == {3, 6}


@pytest.mark.parametrize(("log_every", "end"), [(1, 25), (4, 28)])
def test_many_skipped_steps_in_a_row_end_a_run(
    log_every: int, end: int, loop: Callable[..., Loop]
) -> None:
    """However they are spread over intervals."""
    made = loop(f"tracking.log_every={log_every}", "windows=240")
    made.engine.overflows = range(5, 60)
    stop, state = made.fit()
    assert (stop, state.step) == (Verdict.DIVERGED, end)
    assert made.trainer.meter.skipped_in_a_row == end - 5 >= MAX_SKIPPED_IN_A_ROW
    assert made.saves.steps == []


def test_a_few_skipped_steps_in_a_row_end_nothing(loop: Callable[..., Loop]) -> None:
    """As fp16 needs them at its start."""
    made = loop("windows=160")
    made.engine.overflows = set(range(39)) - {MAX_SKIPPED_IN_A_ROW - 1}
    assert made.fit()[0] is Verdict.FINISHED


def test_a_run_that_never_changed_a_weight_is_not_finished(loop: Callable[..., Loop]) -> None:
    made = loop()
    made.engine.overflows = range(STEPS)
    assert made.fit()[0] is Verdict.DIVERGED


def test_the_logged_loss_is_the_mean_over_steps_and_micro_steps(
    loop: Callable[..., Loop],
) -> None:
    """With a weight of 1 that never moves and no noise the loss is persistence's."""
    each, all_steps, split = (
        loop("objective.noise=0", *options)
        for options in (
            ["tracking.log_every=1"],
            ["tracking.log_every=100"],
            ["tracking.log_every=1", "batch.micro_batch=1"],
        )
    )
    for made in (each, all_steps, split):
        made.engine.moves = False
        made.fit()
    assert split.losses == pytest.approx(each.losses, rel=1e-5)
    mean = sum(each.losses.values()) / STEPS
    assert all_steps.losses == {STEPS: pytest.approx(mean, rel=1e-5)}


def test_any_number_of_ranks_sees_the_same_windows_with_the_same_noise(
    loop: Callable[..., Loop], world: World
) -> None:
    alone = loop("batch.micro_batch=4")
    two = [World(rank=r, local_rank=r, world_size=2, device=world.device) for r in range(2)]
    ranks = [loop("batch.micro_batch=1", world=rank) for rank in two]
    for made in (alone, *ranks):
        made.fit()
    for step in range(STEPS):
        # Micro-batches of one window, dealt out in turns.
        dealt = [
            w for pair in zip(*(r.engine.seen[step] for r in ranks), strict=True) for w in pair
        ]
        assert torch.equal(torch.stack(dealt), torch.stack(alone.engine.seen[step]))


def test_noise_differs_between_windows_and_seeds(loop: Callable[..., Loop]) -> None:
    clean, noisy, other = (
        loop("batch.micro_batch=4", *options)
        for options in (["objective.noise=0"], [], ["seed=1", "objective.noise=0.01"])
    )
    for made in (clean, noisy, other):
        made.fit()
    added = torch.stack(noisy.engine.seen[0]) - torch.stack(clean.engine.seen[0])
    normal = added / added.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    similarity = (normal.flatten(1) @ normal.flatten(1).T).fill_diagonal_(0)
    assert added.abs().min() > 0
    assert similarity.abs().max() < 0.2
    assert not torch.equal(torch.stack(other.engine.seen[0]), torch.stack(noisy.engine.seen[0]))
