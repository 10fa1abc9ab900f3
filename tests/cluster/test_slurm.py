"""The Slurm scripts, with stand-ins for Slurm, Ray, launchers, sweeps and ranks."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "cluster" / "slurm"
SCRIPT = SCRIPTS / "sweep.sbatch"
TRAIN = SCRIPTS / "train.sbatch"

# Two tasks, as `srun` starts on two nodes. A TERM to it reaches both.
SRUN = """#!/usr/bin/env bash
echo "$@" | head -n 1 >> "$LOG/srun"
while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=1 "$@" & first=$!
SLURM_NODEID=0 "$@" & second=$!
trap 'kill $first $second' TERM
wait; wait
"""
# Listens where the head is to listen; both nodes run until they are ended.
RAY = """#!{python}
import os, signal, socket, sys, time
log = open(os.environ["LOG"] + "/ray", "a")
log.write(" ".join(sys.argv[1:]) + " " + os.environ["RAY_AUTH_MODE"] + "\\n"); log.flush()
if "--head" in sys.argv:
    time.sleep(0.5)
    host, port = os.environ["RAY_ADDRESS"].split(":")
    server = socket.create_server((host, int(port)))
signal.pause()
"""
# `-c` makes the token, `-` waits for the nodes, `-m` is the sweep: it ends well on TERM only.
PYTHON = """#!/usr/bin/env bash
case $1 in
  -c) echo a-token ;;
  -) until (( $(wc -l < "$LOG/ray") == $2 )); do sleep 0.05; done ;;
  -m) trap 'echo TERM >> "$LOG/sweep"; exit 3' TERM
      echo "$RAY_AUTH_TOKEN $*" >> "$LOG/sweep"
      while :; do sleep 0.05; done ;;
esac
"""
# A launcher that does not end by itself; on node 0 it starts a rank, if there is one to start.
DEEPSPEED = """#!{python}
import os, signal, subprocess, sys
entry = sys.argv[sys.argv.index("--master_port") + 2]
if os.environ["SLURM_NODEID"] == "0" and os.path.exists(entry):
    subprocess.run([sys.executable, entry, "--local_rank=0"])
open(os.environ["LOG"] + "/launchers", "a").write("waits\\n")
signal.pause()
"""
RANK = """
import os, signal, sys, time
def save(*_):
    time.sleep(2)
    log.write("saved"); log.flush()
    sys.exit(2)
signal.signal(signal.SIGTERM, save)
log = open(os.environ["LOG"] + "/rank", "w")
log.write("trains "); log.flush()
while True: time.sleep(0.05)
"""
SCONTROL = """#!/usr/bin/env bash
printf 'node1\\nnode2\\n'
"""
STAND_INS = {
    "srun": SRUN,
    "ray": RAY,
    "python": PYTHON,
    "deepspeed": DEEPSPEED,
    "scontrol": SCONTROL,
}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes, with the stand-ins first on the path."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in STAND_INS.items():
        (commands / name).write_text(text.replace("{python}", sys.executable))
        (commands / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "LOG": str(tmp_path),
        "SLURM_JOB_ID": str(free_port() - 20000),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "6",
        "SLURM_GPUS_ON_NODE": "4",
    }


def free_port() -> int:
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) != 0:
                return port


def test_a_term_reaches_the_sweep_and_the_nodes_end_after_it(
    job: dict[str, str], tmp_path: Path
) -> None:
    script = subprocess.Popen(
        ["bash", SCRIPT, "--config", "mine.yaml"], env=job, start_new_session=True
    )
    try:
        sweep = tmp_path / "sweep"
        while not (sweep.exists() and sweep.read_text()):
            assert script.poll() is None
            time.sleep(0.05)
        script.send_signal(signal.SIGTERM)
        assert script.wait(timeout=60) == 3, "the exit code of the sweep"
    finally:
        script.poll() is None and os.killpg(script.pid, signal.SIGKILL)
    assert sweep.read_text().splitlines() == [
        "a-token -m dpot_scale.sweep run --config mine.yaml",
        "TERM",
    ]
    assert "--cpus-per-task=6 " in (tmp_path / "srun").read_text()
    head, worker = sorted((tmp_path / "ray").read_text().splitlines(), reverse=True)
    assert head.startswith("start --head --node-ip-address=")
    assert worker.startswith("start --address=")
    number = int(job["SLURM_JOB_ID"])
    assert f"--ray-client-server-port=30{number % 1000:03} " in head
    for node in (head, worker):
        assert "--block --num-cpus=6 --num-gpus=4 " in node
        # Of other jobs on the node: else these two are the same on each machine.
        assert f"--dashboard-agent-listen-port=31{number % 1000:03} " in node
        assert node.endswith(" token"), "the mode of authentication"
    assert not Path(f"/tmp/ray_{job['SLURM_JOB_ID']}").exists()
    assert no_process_of(script.pid)


def test_another_entry_and_data_on_the_disks_of_the_nodes(
    job: dict[str, str], tmp_path: Path
) -> None:
    source, copy = tmp_path / "shared", tmp_path / "scratch"
    (source / "set").mkdir(parents=True)
    (source / "set" / "index.json").write_text("{}")
    job |= {"ENTRY": "dpot_scale.doctor", "DATA": str(source), "LOCAL_DATA": str(copy)}
    script = subprocess.Popen(["bash", SCRIPT], env=job, start_new_session=True)
    try:
        entry = tmp_path / "sweep"
        while not (entry.exists() and entry.read_text()):
            assert script.poll() is None
            time.sleep(0.05)
        folder = Path(f"/tmp/ray_{job['SLURM_JOB_ID']}")
        folder.mkdir()
        script.send_signal(signal.SIGTERM)
        script.wait(timeout=60)
    finally:
        script.poll() is None and os.killpg(script.pid, signal.SIGKILL)
    assert entry.read_text().splitlines()[0] == "a-token -m dpot_scale.doctor"
    assert (copy / "set" / "index.json").read_text() == "{}"
    assert not folder.exists(), "nothing of Ray stays on the nodes"


@pytest.mark.skipif(shutil.which("pkill") is None, reason="pkill is not installed")
@pytest.mark.parametrize("trains", [True, False])
def test_a_training_job_ends_soon_after_its_ranks_have_saved(
    trains: bool, job: dict[str, str], tmp_path: Path
) -> None:
    """The launchers, which end late or never, are not waited for; nor are they without a rank."""
    entry, saved, launchers = (tmp_path / name for name in ("entry.py", "rank", "launchers"))
    if trains:
        entry.write_text(RANK)
    begun = saved if trains else launchers
    script = subprocess.Popen(
        ["bash", TRAIN, "--config", "mine.yaml"],
        env=job | {"ENTRY": str(entry)},
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        while not (begun.exists() and begun.read_text()):
            assert script.poll() is None
            time.sleep(0.05)
        hosts = tmp_path / f"hosts_{job['SLURM_JOB_ID']}"
        assert hosts.read_text() == "node1 slots=4\nnode2 slots=4\n"
        script.send_signal(signal.SIGTERM)
        script.wait(timeout=60)
    finally:
        script.poll() is None and os.killpg(script.pid, signal.SIGKILL)
    assert not trains or saved.read_text() == "trains saved"
    assert not hosts.exists()
    assert no_process_of(script.pid)


def no_process_of(group: int) -> bool:
    """Whether every process that the script started has ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
