"""Ranks that do not meet end after the patience of the doctor, each with one sentence."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = """
from datetime import timedelta
from dpot_scale import doctor
from dpot_scale.diagnosis import examination
examination.PATIENCE = timedelta(seconds=2)
raise SystemExit(doctor.main(["tracking.mlflow_uri=null", "output={}"]))
"""
STUCK = """
import time
from datetime import timedelta
from dpot_scale.diagnosis.patience import within_patience
with within_patience("making coffee", timedelta(seconds={})):
    time.sleep(1)
time.sleep(1)
"""


def ended(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("ranks", "interface", "said"),
    [("2", "", " minutes in vain for another rank ("), ("1", "nowhere0", "nowhere0")],
)
def test_a_rank_whose_peers_it_cannot_reach(
    ranks: str, interface: str, said: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launched = {"RANK": "0", "WORLD_SIZE": ranks, "LOCAL_RANK": "0"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    chosen = {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    done = ended(ALONE.format(tmp_path), **launched, **place, **chosen)
    assert done.returncode == 2, done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert sentence.startswith("error: rank 0 on ")
    assert said in sentence
    assert "GLOO_SOCKET_IFNAME" in sentence
    assert "limits.collective" not in sentence


def test_what_nothing_can_interrupt_ends_with_a_sentence() -> None:
    stuck = ended(STUCK.format(0.2), RANK="3")
    assert stuck.returncode == 2
    assert stuck.stderr.startswith("error: rank 3 on ")
    assert "in vain while making coffee: the ranks cannot reach each other" in stuck.stderr
    done = ended(STUCK.format(1.5))
    assert (done.returncode, done.stderr) == (0, "")
