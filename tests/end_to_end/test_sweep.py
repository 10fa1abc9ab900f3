"""The sweep command as its users start it: interrupted, robbed of a worker, and as a Ray job."""

import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from dpot_scale.checkpoints.store import MARKER
from dpot_scale.checkpoints.weights import read as weights_in
from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.report.results import best_trial, finished_trials
from dpot_scale.tracking.mlflow_client import client as client_of
from dpot_scale.tracking.registered import fetch
from dpot_scale.tracking.spool import SPOOL, newest_record, read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
STEPS = 160  # long enough to be caught in the middle
SWEEP = """
name: ladder
run:
  extends: {run}
  evaluation: {{every: 0}}
  checkpoint: {{every: 10}}
  tracking: {{mlflow_uri: sqlite:///mlflow.db, experiment: tests}}
ladder:
  narrow: {{width: 16}}
  wide: {{width: 24, heads: 3}}
windows: [{windows}]
"""


class Submission:
    """A driver process."""

    def __init__(self, home: Path, command: list[str], **environment: str) -> None:
        self.command = command
        self.log = home / f"driver_{len(list(home.glob('driver_*')))}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | {"DPOT_SCALE_HOME": str(home)} | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ended(self) -> tuple[int, str]:
        code = self.process.wait(timeout=500)
        return code, self.log.read_text()


class Home:
    """A folder of results and what one can see of a sweep in it."""

    def __init__(self, folder: Path, run: Path, *changes: str) -> None:
        self.folder = folder
        self.config = folder / "sweep.yaml"
        self.config.write_text(SWEEP.format(run=run, windows=4 * STEPS))
        # What is read is absolute in the run's config; what is written must come to lie here.
        self.overrides = ["run.output=runs", "run.data.root=data", *changes]
        self.sweep = resolve_sweep_paths(load_sweep(str(self.config), self.overrides), folder)
        self.trials = plan(self.sweep)[::-1]  # as they run: the largest first
        self.journal = Journal(self.sweep.directory)

    def submit(self) -> Submission:
        return Submission(self.folder, [sys.executable, *self.command("run")])

    def command(self, command: str) -> list[str]:
        arguments = ["--config", str(self.config), *self.overrides]
        return ["-m", "dpot_scale.sweep", command, *arguments]

    def wait_for_step(self, trial: Trial, step: int, driver: Submission) -> None:
        wait_until(lambda: self.last_step(trial) >= step, driver)

    def last_step(self, trial: Trial) -> int:
        record = newest_record(trial.run.directory / SPOOL, containing="train/loss")
        return int(record["step"]) if record else 0

    def saved_step(self, trial: Trial) -> int:
        markers = trial.run.directory.glob(f"checkpoints/*/{MARKER}")
        return max((json.loads(marker.read_text())["step"] for marker in markers), default=0)

    def events(self, trial: Trial) -> list[tuple[str, int]]:
        return [
            (entry.event, entry.attempt)
            for entry in self.journal.entries()
            if entry.trial == trial.id
        ]


def wait_until(happened: Callable[[], bool], driver: Submission) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert driver.process.poll() is None, driver.log.read_text()
        assert time.monotonic() < deadline, driver.log.read_text()
        time.sleep(0.02)


def workers_of(driver: Submission) -> list[psutil.Process]:
    family = psutil.Process(driver.process.pid).children(recursive=True)
    return [child for child in family if "RayTrainWorker" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path) -> Home:
    return Home(tmp_path_factory.mktemp("home"), tiny_yaml)


@dataclass(frozen=True)
class Interruption:
    """What one stopped submission left."""

    command: str
    code: int
    log: str
    last_step: int
    saved_step: int
    mlflow: dict[str, str]  # name of a run -> status


@pytest.fixture(scope="module")
def interrupted(home: Home) -> list[Interruption]:
    """The sweep, stopped twice in its first trial: with Ctrl-C, and as `ray job stop` does it."""
    endings = []
    trial = home.trials[0]
    for how in (signal.SIGINT, signal.SIGTERM):
        driver = home.submit()
        home.wait_for_step(trial, home.saved_step(trial) + 20, driver)
        driver.process.send_signal(how)
        code, log = driver.ended()
        endings.append(
            Interruption(
                command=shlex.join(driver.command),
                code=code,
                log=log,
                last_step=home.last_step(trial),
                saved_step=home.saved_step(trial),
                mlflow={name: run.info.status for name, run in in_mlflow(home)[1].items()},
            )
        )
    return endings


@pytest.fixture(scope="module")
def continued(home: Home, interrupted: list[Interruption]) -> tuple[int, str]:
    """The same sweep submitted again; its second trial loses a worker on the way."""
    driver = home.submit()
    home.wait_for_step(home.trials[1], 20, driver)
    robbed = workers_of(driver)
    assert len(robbed) == 2
    robbed[-1].kill()
    return driver.ended()


def test_an_interrupt_is_one_line_and_remembered(
    home: Home, interrupted: list[Interruption]
) -> None:
    for ending in interrupted:
        assert ending.code == 130
        assert ending.log.splitlines()[-1] == f"interrupted; to continue: {ending.command}"
        assert "Traceback" not in ending.log
        assert "SIGTERM" not in ending.log
        assert set(ending.mlflow) == {"ladder", home.trials[0].id}
        assert set(ending.mlflow.values()) == {"KILLED"}
    events = [("started", 1), ("interrupted", 1), ("started", 2), ("interrupted", 2)]
    assert home.events(home.trials[0])[:4] == events


def test_an_interrupted_trial_saves_its_last_step(interrupted: list[Interruption]) -> None:
    first, second = interrupted
    assert 20 <= first.last_step == first.saved_step
    assert first.saved_step + 20 <= second.last_step == second.saved_step < STEPS


def test_submitting_again_continues_to_the_end(home: Home, continued: tuple[int, str]) -> None:
    code, log = continued
    assert code == 0, log
    assert "Traceback" not in log
    first, second = home.trials
    assert home.events(first)[4:] == [("started", 3), ("finished", 3)]
    events = home.events(second)
    assert events == [("started", 1), ("failed", 1), ("started", 2), ("finished", 2)]
    assert f"{second.id}: attempt 1 failed (a worker died: " in log
    for trial in home.trials:
        result = read_result(trial.run.directory)
        assert result is not None
        assert (result.parameters, result.world_size) == (trial.parameters, 2)


def test_both_resumed_from_a_checkpoint(home: Home, continued: tuple[int, str]) -> None:
    # Of what saved when it was stopped no step is repeated; of what lost a worker at most the
    # steps since the last checkpoint, not all since the first.
    for trial, repeated in zip(home.trials, (0, 40), strict=True):
        spool = (trial.run.directory / SPOOL).read_text()
        assert STEPS <= spool.count('"train/loss"') <= STEPS + repeated
        assert sorted(read_metrics(trial.run.directory / SPOOL)["train/loss"]) == list(
            range(1, STEPS + 1)
        )


def test_the_report_names_every_trial(home: Home, continued: tuple[int, str]) -> None:
    report = (home.sweep.directory / "report.md").read_text()
    assert "2 of 2 trials finished" in report
    for trial in home.trials:
        assert f"| {trial.label} | {trial.parameters:,} |" in report
        assert trial.id in continued[1]
    assert "2 finished sizes: a power law needs at least 3." in re.sub(r"\s+", " ", continued[1])


def test_mlflow_shows_a_parent_with_its_trials(home: Home, continued: tuple[int, str]) -> None:
    client, runs = in_mlflow(home)
    assert set(runs) == {"ladder", *(trial.id for trial in home.trials)}
    parent = runs["ladder"]
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert "## Rollout rel_l2" in parent.data.tags["mlflow.note.content"]
    picture = f"get-artifact?path=report%2Fscaling.png&run_uuid={parent.info.run_id}"
    assert picture in parent.data.tags["mlflow.note.content"]
    place = f"#/experiments/{parent.info.experiment_id}/runs?viewStateShareKey=dpot_scale"
    assert f"http://127.0.0.1:5000/{place}&workflowType=machine_learning" in continued[1]
    assert parent.data.metrics["trials/finished"] == 2
    assert parent.data.metrics["trials/failed"] == 0
    assert parent.data.metrics["compute/device_hours"] > 0
    best = min(runs[trial.id].data.metrics["final/rel_l2"] for trial in home.trials)
    assert parent.data.metrics["final/rel_l2"] == pytest.approx(best)
    assert parent.data.tags["design"].startswith("ladder: narrow, wide; windows: ")
    assert {run.data.tags["stop"] for run in runs.values()} == {"finished"}
    paths = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/scaling.png", "report/report.md"} <= paths
    for trial in home.trials:
        child = runs[trial.id]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["size"] == trial.label
        assert child.data.params["model.width"] == str(trial.run.model.width)
        assert child.data.params["size"] == trial.label
        assert "None" not in child.data.params.values()
        assert child.data.metrics["compute/train_flops"] == pytest.approx(trial.train_flops)
        steps = [m.step for m in client.get_metric_history(child.info.run_id, "train/loss")]
        assert steps == list(range(1, STEPS + 1)), "no step is there twice"


def test_the_best_model_is_in_the_registry(
    home: Home, continued: tuple[int, str], tmp_path: Path
) -> None:
    client, runs = in_mlflow(home)
    best = best_trial(finished_trials(home.trials))
    assert best is not None
    (version,) = client.search_model_versions("name='ladder'")
    assert "Successfully registered" not in continued[1]
    assert "Created version" not in continued[1]
    assert version.run_id == runs[best.trial.id].info.run_id
    assert "mlflow models serve --model-uri models:/ladder/1 --env-manager local" in continued[1]
    weights = weights_in(fetch("models:/ladder/1", client.tracking_uri, tmp_path).weights)
    assert weights.model.dimensions() == best.trial.run.model.dimensions()
    assert weights.data is not None
    assert set(weights.data.datasets) == set(best.trial.run.data.weights)


def in_mlflow(home: Home) -> tuple[MlflowClient, dict[str, Run]]:
    client = client_of(f"sqlite:///{home.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=50)
    return client, {run.info.run_name: run for run in runs}


def test_a_finished_sweep_returns_at_once(home: Home, continued: tuple[int, str]) -> None:
    code, log = home.submit().ended()
    assert code == 0
    assert all(f"{trial.id}: finished before" in log for trial in home.trials)
    assert all(home.events(trial)[-1][0] == "finished" for trial in home.trials)


def test_status_and_report_without_a_cluster(home: Home, continued: tuple[int, str]) -> None:
    before = in_mlflow(home)[1]["ladder"]
    for command, words in (("status", "finished"), ("report", "rollout rel_l2")):
        code, log = Submission(home.folder, [sys.executable, *home.command(command)]).ended()
        assert code == 0
        assert words in log
    after = in_mlflow(home)[1]["ladder"]
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)


# A cluster asks for a token, which `ray start` would otherwise put into the user's home.
AUTHENTICATION = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster."""

    address: str
    dashboard: str


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A Ray cluster that ends with the test."""
    ports, log = free_ports(4), tmp_path / "ray.log"
    # Its folder holds sockets, whose paths may have a hundred characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        head = started_head(ports, folder, log)
        try:
            wait_for_dashboard(ports[1], head, log)
            yield Cluster(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")
        finally:
            head.terminate()
            head.wait(timeout=60)


def started_head(ports: Sequence[int], folder: str, log: Path) -> "subprocess.Popen[bytes]":
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
    command += [f"--ray-client-server-port={ports[2]}", f"--temp-dir={folder}"]
    # The agent takes the jobs, and goes without where another cluster has its usual port.
    command += [f"--dashboard-agent-listen-port={ports[3]}"]
    command += ["--num-gpus=2"]  # which its workers must not seek where they are given none
    with log.open("w") as file:
        return subprocess.Popen(
            [script("ray"), *command[1:]],
            env=os.environ | AUTHENTICATION,
            stdout=file,
            stderr=file,
        )


# Takes both CPUs of the cluster at its first argument until it is ended. Its workers have the
# resources and the environment of a trial's, and say which GPUs they see: from outside nobody can
# tell, for Ray overwrites what the system knows of a worker's environment.
OTHERS = """
import os, sys, time
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.scaling.cluster import worker_environment, worker_resources

def train(task):
    folder = task["folder"]
    rank = ray.train.get_context().get_world_rank()
    with open(f"{folder}/sees_{rank}.partial", "w") as file:
        file.write(repr(os.environ.get("CUDA_VISIBLE_DEVICES")))
    os.rename(file.name, f"{folder}/sees_{rank}")
    time.sleep(600)

ray.init(sys.argv[1], log_to_driver=False)
resources = ResourcesConfig(workers=2, gpus_per_worker=0)
TorchTrainer(
    train,
    train_loop_config={"folder": sys.argv[2]},
    scaling_config=ScalingConfig(
        num_workers=resources.workers, resources_per_worker=worker_resources(resources)
    ),
    run_config=RunConfig(
        storage_path=sys.argv[2], worker_runtime_env=worker_environment(resources)
    ),
).fit()
"""


def test_a_stopped_worker_is_named_and_its_trial_tried_again(
    tmp_path: Path, tiny_yaml: Path
) -> None:
    changes = ["ladder={narrow: {width: 16}}", "resources.workers=2", "run.limits.hang=0.25"]
    home = Home(tmp_path, tiny_yaml, *changes)
    (trial,) = home.trials
    driver = home.submit()
    home.wait_for_step(trial, 15, driver)
    stopped = workers_of(driver)
    assert len(stopped) == 2
    stopped[1].send_signal(signal.SIGSTOP)
    code, log = driver.ended()
    assert code == 0, log
    said = re.search(r"attempt 1 failed \((no sign of rank \d on .*)\); trying again", log)
    assert said is not None, log
    assert "for 0.25 minutes (limits.hang)" in said[1]
    (stacks,) = trial.run.directory.glob("stacks_*.txt")
    assert str(stacks) in said[1]
    events = [event for event, _ in home.events(trial)]
    assert events == ["started", "failed", "started", "finished"]
    assert not any(process.is_running() for process in stopped)
    losses = read_metrics(trial.run.directory / SPOOL)["train/loss"]
    assert list(losses) == list(range(1, STEPS + 1))


def test_the_only_worker_of_a_trial_is_missed_ended_and_replaced(
    tmp_path: Path, tiny_yaml: Path
) -> None:
    """No other rank is there to find that it was stopped."""
    changes = ["ladder={narrow: {width: 16}}", "resources={workers: 1, gpus_per_worker: 0}"]
    homes = []
    for name in ("disturbed", "undisturbed"):
        (tmp_path / name).mkdir()
        homes.append(Home(tmp_path / name, tiny_yaml, *changes, "run.limits.hang=0.2"))
    home, undisturbed = homes
    (trial,) = home.trials
    driver = home.submit()
    home.wait_for_step(trial, 15, driver)
    (stopped,) = workers_of(driver)
    stopped.send_signal(signal.SIGSTOP)
    reached = home.last_step(trial)
    code, log = undisturbed.submit().ended()
    assert code == 0, log
    wait_until(lambda: home.events(trial)[-1] == ("started", 2), driver)
    home.wait_for_step(trial, reached + 1, driver)  # it holds the run until it is gone
    assert not stopped.is_running(), "it would train on when it is continued"
    code, log = driver.ended()
    assert code == 0, log
    assert "Traceback" not in log
    events = [("started", 1), ("failed", 1), ("started", 2), ("finished", 2)]
    assert home.events(trial) == events
    who = f"rank 0 on {socket.gethostname()} (process {stopped.pid})"
    said = f"no answer of {who} for 0.2 minutes (limits.hang) and 60 s more: it was stopped"
    assert f"{trial.id}: attempt 1 failed ({said}" in log
    spools = [one.trials[0].run.directory / SPOOL for one in homes]
    losses, expected = (read_metrics(spool)["train/loss"] for spool in spools)
    assert list(losses) == list(range(1, STEPS + 1))
    assert losses == expected


def test_as_a_ray_job_on_a_busy_cluster(
    cluster: Cluster, home: Home, continued: tuple[int, str], tmp_path: Path, tiny_yaml: Path
) -> None:
    interrupted_home, home = home, Home(tmp_path, tiny_yaml)
    command = [sys.executable, "-c", OTHERS, cluster.address, str(tmp_path)]
    others = Submission(tmp_path, command, **AUTHENTICATION)
    sees = [tmp_path / f"sees_{rank}" for rank in range(2)]
    wait_until(lambda: all(file.exists() for file in sees), others)
    assert [file.read_text() for file in sees] == ["''", "''"]
    submission = [script("ray"), "job", "submit", "--address", cluster.dashboard]
    submission += ["--working-dir", "."]
    environment = f'{{"env_vars": {{"DPOT_SCALE_HOME": "{tmp_path}"}}}}'
    # The last words of the user's command are `python -m dpot_scale.sweep`.
    changes = ["ladder={wide: {width: 24, heads: 3}}", "resources.gpus_per_worker=0"]
    python = [sys.executable, *home.command("run"), *changes]
    command = [*submission, "--runtime-env-json", environment, "--", *python]
    job = accepted(tmp_path, command, **AUTHENTICATION)
    trial = home.trials[0]
    waiting = f"{trial.id}: waiting for 2 CPU (0 free), which others use"
    wait_until(lambda: waiting in job.log.read_text(), job)
    assert home.events(trial) == []
    others.process.terminate()
    code, log = job.ended()
    assert code == 0, log
    assert f"{trial.id}: starts after" in log
    assert home.events(trial) == [("started", 1), ("finished", 1)], "waiting cost no attempt"
    assert "succeeded" in log
    assert (home.sweep.directory / "scaling.png").exists()
    assert "1 of 1 trials finished" in (home.sweep.directory / "report.md").read_text()
    # The same trial, never interrupted.
    twice_stopped = interrupted_home.trials[0]
    assert trial.id == twice_stopped.id
    whole, parts = (read_metrics(t.run.directory / SPOOL) for t in (trial, twice_stopped))
    for key in ("train/loss", "train/grad_norm", "train/lr", "eval/mean/rel_l2"):
        assert whole[key] == parts[key], key


def accepted(home: Path, command: list[str], **environment: str) -> Submission:
    """Submit a job until the cluster takes it: its agent starts some time after its dashboard."""
    deadline = time.monotonic() + 180
    while True:
        job = Submission(home, command, PYTHONUNBUFFERED="1", **environment)
        while job.process.poll() is None and "submitted successfully" not in job.log.read_text():
            time.sleep(0.02)
        if "No available agent" not in job.log.read_text() or time.monotonic() > deadline:
            return job
        time.sleep(1)


def script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def free_ports(number: int) -> list[int]:
    sockets: list[socket.socket] = []
    for _ in range(number):
        sockets.append(socket.socket())
        sockets[-1].bind(("127.0.0.1", 0))
    ports = [int(taken.getsockname()[1]) for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def wait_for_dashboard(port: int, head: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
