"""A sweep whose trial loses and gains workers: two nodes of Ray on this machine come and go."""

import contextlib
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.status import status_table
from dpot_scale.tracking.spool import SPOOL, complete_records, read_metrics
from tests.end_to_end.recording import drawn

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).parents[2]
STEPS = 300  # long enough for all that happens to it
PAUSE = 20  # steps that it makes after one event, before the next one
SWEEP = """
name: elastic
run:
  extends: {run}
  output: runs
  windows: {windows}
  batch: {{global_batch: 16, micro_batch: 2}}
  optim: {{lr: 1e-4}}
  evaluation: {{every: 0}}
  checkpoint: {{every: 10}}
  tracking: {{mlflow_uri: null}}
ladder: {{narrow: {{width: 16}}}}
windows: [{windows}]
resources: {{workers: [1, 2], gpus_per_worker: 0}}
max_attempts: 1
max_preemptions: 0
"""
# As users start it, but quicker to find that there is room for more workers, and with a record of
# the windows; workers get the functions themselves, as they need not find the tests.
DRIVER = """
import sys
from ray import cloudpickle
from dpot_scale.scaling import elastic, launcher
from dpot_scale.sweep import main
from tests.end_to_end import recording
cloudpickle.register_pickle_by_value(recording)
launcher.train_trial = recording.train_trial
elastic.STEADY_SECONDS, elastic.LOOK_SECONDS, elastic.TRIAL_OVERHEAD_SECONDS = 1.0, 0.5, 0.0
sys.exit(main())
"""
ALONE = "import sys; from tests.end_to_end.recording import train; sys.exit(train())"
LOST = "a node of its workers is gone"
TAKEN = "a node of its workers is about to be taken away; it saved"
MORE = "there is room for 2 workers"


@dataclass
class Node:
    """A node of a Ray cluster on this machine, with one core."""

    process: "subprocess.Popen[bytes]"
    id: str
    log: Path

    def wait(self) -> "Node":
        wait_until(lambda: "Ray runtime started" in self.log.read_text(), self.process, self.log)
        return self

    def kill(self) -> None:
        """Kill its processes all at once, as a machine that fails."""
        parts = psutil.Process(self.process.pid).children(recursive=True)
        for part in [psutil.Process(self.process.pid), *parts]:
            with contextlib.suppress(psutil.NoSuchProcess):
                part.kill()
        self.process.wait(60)


@dataclass
class Nodes:
    """The head of a Ray cluster, and nodes that join it."""

    folder: Path
    temporary: str
    port: int
    environment: dict[str, str]
    started: list[Node] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def head(self) -> list[str]:
        """Options of the first node."""
        options = ["--head", f"--port={self.port}", f"--temp-dir={self.temporary}"]
        return [*options, "--include-dashboard=false", f"--ray-client-server-port={free_port()}"]

    def start(self, *options: str, cores: int = 1, before: Sequence[str] = ()) -> Node:
        """Start a node, by a command with words before it; it takes a while until it has joined."""
        number = len(self.started)
        command = [
            *before,
            script("ray"),
            "start",
            "--block",
            f"--num-cpus={cores}",
            "--disable-usage-stats",
        ]
        # Addresses of their own: a process joins Ray at the node that has its own address.
        command += [
            f"--node-ip-address=127.0.0.{number + 1}",
            f"--object-store-memory={100 * 2**20}",
        ]
        command += [f"--dashboard-agent-listen-port={free_port()}", *options]
        identity = secrets.token_hex(28)
        log = self.folder / f"node_{number}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                env=self.environment | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": identity},
                stdout=file,
                stderr=file,
            )
        self.started.append(Node(process, identity, log))
        return self.started[-1]

    def join(self, before: Sequence[str] = ()) -> Node:
        return self.start(f"--address={self.address}", before=before)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Its folder holds sockets, whose paths may have a hundred characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary:
        nodes = Nodes(folder, temporary, free_port(), os.environ | token | {"OMP_NUM_THREADS": "1"})
        try:
            nodes.start(*nodes.head).wait()
            nodes.join().wait()
            yield nodes
        finally:
            for node in nodes.started:
                if node.process.poll() is None:
                    node.kill()


class Driver:
    """A process that runs the sweep on the nodes."""

    script = DRIVER

    def __init__(self, folder: Path, nodes: Nodes, *overrides: str) -> None:
        number = len(list(folder.glob("driver_*")))
        self.log = folder / f"driver_{number}.log"
        command = [sys.executable, "-c", self.script, "run", "--config", str(folder / "sweep.yaml")]
        own = {"RAY_ADDRESS": nodes.address, "DPOT_SCALE_HOME": str(folder)}
        own |= {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *overrides],
                cwd=REPOSITORY,
                env=nodes.environment | own,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ended(self) -> tuple[int, str]:
        code = self.process.wait(timeout=400)
        return code, self.log.read_text()


@dataclass
class Story:
    """What happened to the trial, one thing after the other."""

    trial: Trial
    folder: Path
    status: list[str] = field(default_factory=list)  # what it said in each attempt
    left_of_ray: list[str] = field(default_factory=list)  # by the driver that was killed
    code: int | None = None
    log: str = ""


@pytest.fixture(scope="module")
def story(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path) -> Story:
    folder = tmp_path_factory.mktemp("home")
    (folder / "sweep.yaml").write_text(SWEEP.format(run=tiny_yaml, windows=16 * STEPS))
    sweep = resolve_sweep_paths(load_sweep(str(folder / "sweep.yaml")), folder)
    (trial,) = plan(sweep)
    story = Story(trial, folder)
    driver = Driver(folder, nodes)

    def goes_on(attempt: int, words: str) -> None:
        """Wait until an attempt trains with such workers, and has made some steps with them."""

        def has_trained() -> bool:
            last = Journal(sweep.directory).last(trial.id)
            if last is None or (last.event, last.attempt) != ("started", attempt):
                return False
            return steps_since(trial, last.time.timestamp()) >= PAUSE

        wait_until(has_trained, driver.process, driver.log)
        story.status.append(" ".join(status_table(sweep, [trial]).split()))
        assert words in story.status[-1]

    goes_on(1, "1 on 2 of 1-2 workers")
    driver.process.kill()
    driver.process.wait(60)
    story.left_of_ray = [path.name for path in (sweep.directory / "ray").iterdir()]
    driver = Driver(folder, nodes)
    goes_on(2, "2 on 2 of 1-2 workers")
    nodes.started[1].kill()
    goes_on(3, f"on 1 of 1-2 workers, started again because {LOST}")
    returned = nodes.join()
    goes_on(4, f"on 2 of 1-2 workers, started again because {MORE}")
    drain(returned, nodes)
    goes_on(5, f"on 1 of 1-2 workers, started again because {TAKEN}")
    story.code, story.log = driver.ended()
    return story


def steps_since(trial: Trial, since: float) -> int:
    """How many steps a trial has recorded since a moment."""
    if not (trial.run.directory / SPOOL).exists():
        return 0
    records, _ = complete_records(trial.run.directory / SPOOL, 0)
    return sum(record["time"] > since and "train/loss" in record for record in records)


def drain(node: Node, nodes: Nodes) -> None:
    """Announce that a node is about to be taken away, as a cloud does."""
    command = [script("ray"), "drain-node", "--address", nodes.address, "--node-id", node.id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command += ["--deadline-remaining-seconds", "120"]
    subprocess.run(command, env=nodes.environment, check=True, capture_output=True)


def test_a_trial_goes_on_with_the_workers_that_there_are(story: Story) -> None:
    assert story.code == 0, story.log
    assert "Traceback" not in story.log
    events = [
        (entry.event, entry.workers, entry.reason)
        for entry in Journal(story.trial.run.output.parent).entries()
    ]
    assert events == [
        ("started", 2, ""),
        ("started", 2, ""),
        ("resized", None, LOST),
        ("started", 1, LOST),
        ("resized", None, MORE),
        ("started", 2, MORE),
        ("resized", None, TAKEN),
        ("started", 1, TAKEN),
        ("finished", None, ""),
    ]
    result = read_result(story.trial.run.directory)
    assert result is not None
    assert (result.world_size, result.steps) == (1, STEPS)


@pytest.fixture(scope="module")
def undisturbed(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run, alone and in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = story.trial.run.model_copy(update={"output": folder, "name": "undisturbed"})
    (folder / "run.yaml").write_text(dump(run))
    command = [sys.executable, "-c", ALONE, str(folder / "drawn" / "alone" / "rank_0.jsonl")]
    command += ["--config", str(folder / "run.yaml")]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=400)
    return folder


def test_its_losses_are_those_of_an_undisturbed_run(story: Story, undisturbed: Path) -> None:
    here, there = (
        read_metrics(d / SPOOL) for d in (story.trial.run.directory, undisturbed / "undisturbed")
    )
    assert sorted(here["train/loss"]) == list(range(1, STEPS + 1))
    assert here["train/lr"] == there["train/lr"]
    assert here["train/loss"] == pytest.approx(there["train/loss"], rel=1e-6)


def test_each_step_drew_the_windows_of_an_undisturbed_run(story: Story, undisturbed: Path) -> None:
    """Whatever the number of workers; also a step that an attempt made for nothing."""
    (expected,) = drawn(undisturbed / "drawn").values()
    assert sorted(expected) == list(range(STEPS))
    assert len(set(itertools.chain(*expected.values()))) == 16 * STEPS
    attempts = drawn(story.trial.run.output.parent / "drawn")
    assert len(attempts) == 5
    whole = set()
    for name, steps in attempts.items():
        for step, windows in steps.items():
            assert len(windows) == len(set(windows)), f"step {step} of {name}: one twice"
            assert set(windows) <= set(expected[step]), f"step {step} of {name}"
            if len(windows) == 16:
                whole.add(step)
    assert whole == set(range(STEPS))


def test_what_a_killed_driver_left_of_ray_is_removed(story: Story) -> None:
    """The driver that goes on removes it, and what it makes itself."""
    assert story.left_of_ray
    assert not (story.trial.run.output.parent / "ray").exists()


def test_a_worker_that_fits_on_no_node_is_refused_at_once(
    nodes: Nodes, story: Story, tmp_path: Path
) -> None:
    """Two nodes of one core each have as much as a worker of two cores needs, but not together."""
    nodes.join().wait()
    shutil.copy(story.folder / "sweep.yaml", tmp_path)
    code, log = Driver(tmp_path, nodes, "resources={workers: 1, cpus_per_worker: 2}").ended()
    assert code == 2, log
    assert "a trial needs 1 workers with 2 CPU each, on one node each, but the nodes" in log
    assert "waiting" not in log
    assert not list(tmp_path.glob("runs/**/journal.jsonl"))


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
