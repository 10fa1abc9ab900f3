"""Whole trainings in processes of their own: alone, on two ranks, killed, stopped, diverged."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from mlflow.entities import Run

from dpot_scale.checkpoints.store import MARKER
from dpot_scale.config.load import load_run
from dpot_scale.config.places import RESULT_FILE
from dpot_scale.runs.resolved import identify
from dpot_scale.runs.result import read_result
from dpot_scale.runs.signs import read_sign
from dpot_scale.tracking.mlflow_client import RUN_ID_FILE, client
from dpot_scale.tracking.spool import SPOOL, read_metrics
from dpot_scale.training.loop import MAX_SKIPPED_IN_A_ROW
from dpot_scale.training.quarantine import read_quarantine

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

STEPS = 24
CHECKPOINT_EVERY = 4
# Of fp32 sums in another order. Measured: 4e-7 for gradient norms, less for all else.
CLOSE = {"rel": 1e-6}


def curves(directory: Path) -> dict[str, dict[int, float]]:
    """What training computed, without what depends on the speed of the machine."""
    metrics = read_metrics(directory / SPOOL)
    return {key: values for key, values in metrics.items() if key.startswith(("train/", "eval/"))}


def newest_checkpoint(directory: Path) -> int:
    markers = directory.glob(f"checkpoints/step_*/{MARKER}")
    return max((json.loads(marker.read_text())["step"] for marker in markers), default=0)


def wait_for_step(training: Any, step: int) -> None:
    """Wait until a run has recorded a step; leave it to the test's timeout to give up."""
    spool = training.directory / SPOOL
    while training.process.poll() is None:
        if spool.exists() and step <= max(read_metrics(spool).get("train/loss", {}), default=0):
            return
        time.sleep(0.02)
    raise AssertionError(f"ended before step {step}: {training.ended()}")


def rank(training: Any, number: int) -> psutil.Process:
    for process in psutil.Process(training.process.pid).children(recursive=True):
        if f"--local_rank={number}" in process.cmdline():
            return process
    raise AssertionError(f"no rank {number}")


@pytest.fixture(scope="module")
def two_ranks(start: Any, finished: Any) -> Any:
    """The run of `finished` under the deepspeed launcher, uninterrupted."""
    return start("two_ranks", ranks=2).ended()


@dataclass(frozen=True)
class Interrupted:
    """The run of `two_ranks`, killed in its first attempt and stopped in its second."""

    committed_before_kill: int
    stopped: Any
    committed_at_stop: int
    mlflow_status_at_stop: str
    completed: Any


@pytest.fixture(scope="module")
def interrupted(start: Any, finished: Any, database: str) -> Interrupted:
    def attempt() -> Any:
        return start("interrupted", f"tracking.mlflow_uri={database}", ranks=2)

    killed = attempt()
    wait_for_step(killed, CHECKPOINT_EVERY + 2)
    killed.kill()
    directory = killed.ended().directory
    committed = newest_checkpoint(directory)
    stopping = attempt()
    wait_for_step(stopping, committed + CHECKPOINT_EVERY + 1)
    # One rank only, and not the one that writes: the others must learn of it. Twice, as from a
    # scheduler and then from the launcher.
    for _ in range(2):
        rank(stopping, 1).send_signal(signal.SIGTERM)
    stopped = stopping.ended()
    run = client(database).get_run((directory / RUN_ID_FILE).read_text())
    return Interrupted(
        committed_before_kill=committed,
        stopped=stopped,
        committed_at_stop=newest_checkpoint(directory),
        mlflow_status_at_stop=run.info.status,
        completed=attempt().ended(),
    )


def test_a_run_alone_reaches_its_end(finished: Any, tiny_yaml: Path) -> None:
    assert finished.code == 0, finished.err
    assert finished.errors == []
    config = load_run(str(finished.directory / "config.yaml"))
    result = read_result(finished.directory)
    assert result is not None
    assert (result.steps, result.world_size) == (STEPS, 1)
    of_the_file = identify(load_run(str(tiny_yaml)))
    assert result.identity == identify(config).identity == of_the_file.identity
    assert result.datasets == of_the_file.contents.datasets
    assert result.lead_times.keys() == result.evaluation.keys()
    assert all(result.lead_times.values())
    losses = curves(finished.directory)["train/loss"]
    assert list(losses) == list(range(1, STEPS + 1))
    assert result.final_train_loss == losses[STEPS]
    assert newest_checkpoint(finished.directory) == STEPS
    assert {path.name for path in finished.directory.iterdir()} >= {
        "model.safetensors",
        "deepspeed.json",
        "figures",
    }


def test_it_learns(finished: Any) -> None:
    curve = curves(finished.directory)["eval/mean/rel_l2"]
    assert list(curve) == [8, 16, STEPS]
    assert curve[8] > curve[16] > curve[STEPS]


def test_to_be_watched_changes_no_number(start: Any, finished: Any) -> None:
    watched = start("watched", "evaluation.every=3", "evaluation.watched=1").ended()
    assert watched.code == 0, watched.err
    alone, found = curves(finished.directory), curves(watched.directory)
    assert list(found["eval/mean/rel_l2"]) == [3, 6, 9, 12, 15, 18, 21, STEPS]
    for key in ("train/loss", "train/grad_norm", "train/lr"):
        assert found[key] == alone[key], key
    one, other = read_result(finished.directory), read_result(watched.directory)
    assert one is not None
    assert other is not None
    assert one.evaluation == other.evaluation
    metrics = read_metrics(watched.directory / SPOOL)
    assert metrics["final/rel_l2"] == {0: other.mean_rel_l2}
    assert metrics["data/windows"][STEPS] == other.windows
    assert metrics["compute/train_flops"][STEPS] == other.train_flops
    assert metrics["model/block_params"] == {0: other.block_parameters}
    assert metrics["data/trajectories"] == {0: 13}
    assert metrics["time/seconds"] == {0: other.seconds}


def test_two_ranks_train_as_one_does(finished: Any, two_ranks: Any) -> None:
    """The same stream, noise included, and the same held-out trajectories."""
    assert two_ranks.code == 0, two_ranks.err
    alone, together = curves(finished.directory), curves(two_ranks.directory)
    assert alone.keys() == together.keys()
    for key, curve in alone.items():
        assert together[key] == pytest.approx(curve, **CLOSE), key
    one, two = read_result(finished.directory), read_result(two_ranks.directory)
    assert one is not None
    assert two is not None
    assert (one.identity, two.world_size) == (two.identity, 2)
    for name, score in one.evaluation.items():
        assert dict(two.evaluation[name]) == pytest.approx(dict(score), **CLOSE), name


@pytest.mark.parametrize("run", ["finished", "two_ranks"])
def test_one_rank_speaks(run: str, request: pytest.FixtureRequest) -> None:
    ended = request.getfixturevalue(run)
    lines = ended.out.splitlines()
    for start in (
        "model  ",
        f"step     {STEPS}/{STEPS}  loss",
        "held-out rel_l2",
        "weights, figures",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start


def test_a_killed_and_stopped_run_is_the_uninterrupted_one_bit_by_bit(
    interrupted: Interrupted, two_ranks: Any
) -> None:
    assert interrupted.completed.code == 0, interrupted.completed.err
    assert 0 < interrupted.committed_before_kill < STEPS
    assert f"resuming at step {interrupted.committed_before_kill}\n" in interrupted.stopped.out
    assert f"resuming at step {interrupted.committed_at_stop}\n" in interrupted.completed.out
    assert curves(interrupted.completed.directory) == curves(two_ranks.directory)
    found, expected = (read_result(ended.directory) for ended in (interrupted.completed, two_ranks))
    assert found is not None
    assert expected is not None
    assert found.evaluation == expected.evaluation


def test_a_signal_to_one_rank_stops_all_after_saving(interrupted: Interrupted) -> None:
    stopped, step = interrupted.stopped, interrupted.committed_at_stop
    assert stopped.code == 2
    assert stopped.errors == [
        f"error: run interrupted was stopped by SIGTERM at step {step} of {STEPS} and saved; "
        "start it again to continue"
    ]
    assert "Traceback" not in stopped.err
    recorded = [line for line in stopped.out.splitlines() if " loss " in line]
    assert recorded[-1].startswith(f"step {step:>6}/{STEPS} "), "no step is lost"


def test_a_rank_ends_soon_after_a_killed_launcher_and_loses_nothing(start: Any) -> None:
    """Else it would train on beside the restart, which could not use its folder."""
    longer = ["windows=240", "evaluation.every=0", "checkpoint.every=0"]
    orphaned = start("orphaned", *longer, ranks=1)
    wait_for_step(orphaned, 6)
    trains = rank(orphaned, 0)
    orphaned.process.kill()
    _, alive = psutil.wait_procs([trains], timeout=60)
    assert alive == []
    step = newest_checkpoint(orphaned.directory)
    assert 6 <= step < 60
    (said,) = orphaned.ended().errors
    assert f"was stopped because its launcher was killed at step {step} of 60 and saved" in said
    again = start("orphaned", *longer, ranks=1).ended()
    assert again.code == 0, again.err
    assert f"resuming at step {step}\n" in again.out


def test_the_wall_clock_stops_a_run_after_saving(start: Any, finished: Any) -> None:
    """It counts from the start of the process, which here takes longer than the limit."""
    clocked = start("clocked", "limits.wall_clock=0.001").ended()
    assert clocked.code == 2
    assert newest_checkpoint(clocked.directory) == 1
    (said,) = clocked.errors
    assert f"clocked was stopped by limits.wall_clock at step 1 of {STEPS} and saved" in said
    again = start("clocked").ended()
    assert again.code == 0, again.err
    assert "resuming at step 1\n" in again.out
    assert curves(again.directory) == curves(finished.directory)


def test_a_rank_is_stopped_then_one_is_killed_and_nothing_is_lost(
    start: Any, two_ranks: Any, database: str
) -> None:
    def attempt() -> Any:
        mirrored = f"tracking.mlflow_uri={database}"
        return start("hurt", mirrored, "limits.hang=0.25", ranks=2)

    stopped = attempt()
    wait_for_step(stopped, CHECKPOINT_EVERY + 2)
    frozen = rank(stopped, 1)
    frozen.send_signal(signal.SIGSTOP)
    ended = stopped.ended()
    assert ended.code != 0
    (line,) = ended.errors
    assert "no sign of rank 1 on " in line
    assert "for 0.25 minutes (limits.hang)" in line
    (stacks,) = ended.directory.glob("stacks_*.txt")
    assert str(stacks) in line
    assert "loop.py" in stacks.read_text()
    psutil.wait_procs([frozen], timeout=60)
    assert not frozen.is_running()
    assert (the_run(database, "hurt").data.tags["stop"]) == "hung"

    killed = attempt()
    wait_for_step(killed, newest_checkpoint(ended.directory) + CHECKPOINT_EVERY + 1)
    rank(killed, 1).kill()
    ended = killed.ended()
    assert ended.code != 0
    (line,) = ended.errors
    assert "rank 0 on " in line or "rank 1 on " in line
    assert "Traceback (most recent call last):\n  File" not in ended.err
    run = the_run(database, "hurt")
    assert run.data.tags["stop"] == "lost_peer"
    assert run.data.tags["stop_reason"] in line

    again = attempt().ended()
    assert again.code == 0, again.err
    assert curves(again.directory) == curves(two_ranks.directory)
    assert the_run(database, "hurt").data.tags["stop"] == "finished"
    assert "stop_reason" not in the_run(database, "hurt").data.tags


@pytest.mark.parametrize("torchrun", [False, True])
def test_two_ranks_outlive_a_killed_launcher_by_seconds_and_a_restart_goes_on(
    torchrun: bool, start: Any
) -> None:
    name, longer = (
        f"orphans_{torchrun}",
        ["windows=240", "evaluation.every=0", "checkpoint.every=0"],
    )
    orphaned = start(name, *longer, ranks=2, torchrun=torchrun)
    wait_for_step(orphaned, 6)
    ranks = psutil.Process(orphaned.process.pid).children(recursive=True)
    orphaned.process.kill()
    again = start(name, *longer, ranks=2, torchrun=torchrun)
    _, alive = psutil.wait_procs(ranks, timeout=120)
    assert alive == []
    step = newest_checkpoint(orphaned.directory)
    assert 6 <= step <= 60
    said = orphaned.ended().errors
    assert any("was stopped because its launcher was killed" in line for line in said), said
    ended = again.ended()
    assert ended.code == 0, ended.err
    assert f"resuming at step {step}\n" in ended.out
    assert list(curves(ended.directory)["train/loss"]) == list(range(1, 61)), "each step once"


def test_a_restart_waits_for_orphans_and_returns_their_result(start: Any, finished: Any) -> None:
    """Its launcher is killed when a rank has made its last step: nothing is left but the end."""
    orphaned = start("waited", ranks=1)
    wait_for_step(orphaned, STEPS)
    orphan = rank(orphaned, 0)
    orphaned.process.kill()
    while not ((sign := read_sign(orphaned.directory, 0)) and sign.is_orphaned):
        assert orphan.is_running()
    orphan.suspend()  # it is not to come to the end before the restart comes
    assert not (orphaned.directory / RESULT_FILE).exists()
    waiting = start("waited")
    while "waiting for those that train in" not in waiting.out.read_text():
        assert waiting.process.poll() is None, waiting.ended()
        time.sleep(0.05)
    orphan.resume()
    ended = waiting.ended()
    assert ended.code == 0, ended.err
    assert "held-out rel_l2" in ended.out
    assert "\nstep " not in ended.out, "nothing was trained or evaluated anew"
    assert curves(ended.directory) == curves(finished.directory)
    assert psutil.wait_procs([orphan], timeout=60)[1] == []


def test_divergence_is_one_sentence_and_never_saved(start: Any) -> None:
    diverged = start(
        "diverged",
        "optim.lr=1e30",
        "optim.initial_lr_ratio=1",
        "checkpoint.every=1",
        "evaluation.every=0",
        "tracking.log_every=8",
    ).ended()
    assert diverged.code == 2
    assert len(diverged.errors) == 1
    found = curves(diverged.directory)
    last = max(found["train/loss"])  # whose loss was finite
    end = last + MAX_SKIPPED_IN_A_ROW
    assert diverged.errors[0].startswith(
        f"error: run diverged diverged at step {end} of {STEPS}: in each of its last "
        f"{MAX_SKIPPED_IN_A_ROW} steps the loss or the gradient was not finite"
    )
    assert "Traceback" not in diverged.err
    assert newest_checkpoint(diverged.directory) == last
    assert all(math.isfinite(value) for curve in found.values() for value in curve.values())
    assert read_result(diverged.directory) is None


def test_a_mistake_under_the_launcher_is_one_sentence(start: Any) -> None:
    mistaken = start("mistaken", "data.suite=null", "data.root=/absent", ranks=2).ended()
    assert mistaken.code == 2
    assert len(mistaken.errors) == 1
    assert "dataset 'dr_pdb_generated' is missing under /absent" in mistaken.errors[0]
    assert "Traceback" not in mistaken.err
    assert not mistaken.directory.exists()


def test_data_that_one_rank_finds_bad_stop_both_with_one_sentence(
    start: Any, finished: Any, tiny_yaml: Path
) -> None:
    """No rank waits for the other until the launcher kills it, and nothing bad is learned."""
    data = tiny_yaml.with_name("bad_data")
    shutil.copytree(tiny_yaml.with_name("data"), data)
    shard = data / "dr_pdb_generated" / "train" / "shard-00000.h5"
    with h5py.File(shard, "r+") as file:
        file["fields"][2, 4:6, 1, 3, 3] = np.nan
    found = start("bad_data", f"data.root={data}", "checkpoint.every=1", ranks=2).ended()
    assert found.code == 2
    assert len(found.errors) == 1
    assert f"{shard} holds NaN or infinite values, in train trajectory 2 " in found.errors[0]
    assert "Traceback" not in found.err
    losses = curves(found.directory)["train/loss"]
    assert all(math.isfinite(loss) for loss in losses.values())
    assert newest_checkpoint(found.directory) == max(losses, default=0) < STEPS


def test_what_cannot_be_read_is_replaced_the_same_on_any_number_of_ranks(
    start: Any, finished: Any, tiny_yaml: Path
) -> None:
    """By one rank, and by two that are killed and go on as one."""
    data = tiny_yaml.with_name("worse_data")
    shutil.copytree(tiny_yaml.with_name("data"), data)
    for dataset, trajectory in (
        ("dr_pdb_generated", 2),
        ("dr_pdb_generated", 4),
        ("swe_coarse", 0),
    ):
        with h5py.File(data / dataset / "train" / "shard-00000.h5", "r+") as file:
            file["fields"][trajectory, 4:6] = np.nan
    options = [f"data.root={data}", "limits.unreadable=0.6"]
    alone = start("worse_alone", *options).ended()
    assert alone.code == 0, alone.err
    killed = start("worse_ranks", *options, ranks=2)
    wait_for_step(killed, CHECKPOINT_EVERY + 2)
    killed.kill()
    assert read_quarantine(killed.directory)
    together = start("worse_ranks", *options).ended()
    assert together.code == 0, together.err
    found = read_quarantine(alone.directory)
    assert read_quarantine(together.directory) == found
    counts = read_metrics(alone.directory / SPOOL)["data/quarantined"].values()
    assert max(counts) == len(found) > 10
    for ended in (alone, together):
        result = read_result(ended.directory)
        assert result is not None
        assert result.quarantined == len(found)
    expected = curves(alone.directory)
    for key, curve in curves(together.directory).items():
        assert curve == pytest.approx(expected[key], **CLOSE), key


def test_a_killed_run_goes_on_with_fewer_ranks_and_another_stage(
    start: Any, two_ranks: Any
) -> None:
    killed = start("fewer", ranks=2)
    wait_for_step(killed, CHECKPOINT_EVERY + 2)
    killed.kill()
    ended = start("fewer", "engine.deepspeed=zero0_fp32").ended()
    assert ended.code == 0, ended.err
    assert re.search(r"resuming at step [48]\b", ended.out)
    assert "2 per rank x 1 ranks x 2 accumulated" in ended.out
    expected = curves(two_ranks.directory)
    for key, curve in curves(ended.directory).items():
        assert curve == pytest.approx(expected[key], **CLOSE), key


@pytest.mark.parametrize("name", ["alone", "interrupted"])
def test_mlflow_mirrors_the_run(
    name: str, finished: Any, interrupted: Interrupted, database: str
) -> None:
    ended = {"alone": finished, "interrupted": interrupted.completed}[name]
    run = the_run(database, name)
    assert run.info.status == "FINISHED"
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert f"http://127.0.0.1:5000/{page}?workflowType=machine_learning" in ended.out
    assert run.data.params["batch.global_batch"] == "4"
    assert run.data.params["data.weights.dr_pdb_generated"] == "2.0"
    spooled = read_metrics(ended.directory / SPOOL)
    assert run.data.metrics.keys() == spooled.keys()
    for key, values in curves(ended.directory).items():
        history = client(database).get_metric_history(run.info.run_id, key)
        assert [(point.step, point.value) for point in history] == list(values.items()), key
    artifacts = artifact_paths(database, run.info.run_id)
    assert artifacts == {
        "config.yaml",
        "deepspeed.json",
        "figures/error_growth.png",
        "figures/rollout_dr_pdb_generated.png",
        "figures/rollout_swe_pdb_generated.png",
        "figures/rollout_swe_coarse.png",
    }


def test_mlflow_ui_shows_the_runs(finished: Any, database: str) -> None:
    """The reviewer's command, on the database that training left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", database]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that it can be ended with all its children
    )
    try:
        address = f"http://127.0.0.1:{port}"
        page = wait_for(address, server)
        assert "mlflow" in page.lower()
        served = client(address)
        experiment = served.get_experiment_by_name("dpot_scale")
        runs = served.search_runs([experiment.experiment_id])
        assert "alone" in {run.info.run_name for run in runs}
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(address: str, server: subprocess.Popen[bytes]) -> str:
    """Return the page of a server once it answers; leave it to the test's timeout to give up."""
    while server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as page:
            return str(page.read().decode())
        time.sleep(0.2)
    raise AssertionError(f"the server ended with code {server.returncode}")


def test_mlflow_tells_a_stopped_run(interrupted: Interrupted) -> None:
    assert interrupted.mlflow_status_at_stop == "KILLED"


def the_run(database: str, name: str) -> Run:
    """The only run of a name: attempts share one."""
    mlflow_client = client(database)
    experiment = mlflow_client.get_experiment_by_name("dpot_scale")
    assert experiment is not None
    runs = mlflow_client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    assert len(runs) == 1
    return runs[0]


def artifact_paths(database: str, run_id: str) -> set[str]:
    mlflow_client = client(database)
    top = mlflow_client.list_artifacts(run_id)
    figures = mlflow_client.list_artifacts(run_id, "figures")
    return {entry.path for entry in [*top, *figures] if not entry.is_dir}
