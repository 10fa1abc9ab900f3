"""Which errors of collective calls speak of another rank; tests/runs/test_pulse.py loses some."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from torch import distributed as dist

from dpot_scale.engine.peers import is_of_lost_peer, lost_peers_named, reason
from dpot_scale.errors import LostPeerError
from tests.conftest import free_port


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer"), True),
        (RuntimeError("[/pytorch/gloo/transport/tcp/unbound_buffer.cc:81] Timed out"), True),
        (dist.DistBackendError("NCCL error: remote process exited or there was a network"), True),
        (dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), True),
        (dist.DistBackendError("NCCL error: invalid usage (run with NCCL_DEBUG=WARN)"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Connection closed by peer"), False),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. can't allocate memory"),
            False,
        ),
    ],
)
def test_errors_of_other_kinds_are_left_as_they_are(error: Exception, is_lost: bool) -> None:
    assert is_of_lost_peer(error) == is_lost


GLOO = "/pytorch/third_party/gloo/gloo/transport/tcp"


@pytest.mark.parametrize(
    ("said", "what", "why"),
    [
        (
            f"Gloo connectFullMesh failed with [{GLOO}/pair.cc:152] timed out connecting: SO_ERROR:"
            " Connection refused, remote=[127.0.1.1]:2467$0",
            "cannot connect to another rank",
            "Gloo connectFullMesh failed with timed out connecting: SO_ERROR: Connection refused, "
            "remote=[127.0.1.1]:2467$0",
        ),
        (
            f"[enforce fail at {GLOO}/device.cc:84] ifa != nullptr. Unable to find address for: a0",
            "lost the connection to another rank, which ended, or its machine or network did",
            "ifa != nullptr. Unable to find address for: a0",
        ),
        (
            f"Gloo connectFullMesh failed with [{GLOO}/pair.h:311] Connect timeout [none]",
            "tried for 15 minutes to connect to another rank",
            "Gloo connectFullMesh failed with Connect timeout [none]",
        ),
    ],
)
def test_the_sentence_has_what_gloo_knows(said: str, what: str, why: str) -> None:
    error = RuntimeError(said)
    assert reason(error) == why
    with pytest.raises(LostPeerError) as found, lost_peers_named(timedelta(minutes=3), "", None):
        raise error
    assert f" {what} ({why}); " in str(found.value)


NETWORK = """
ip link set lo up
iptables -A OUTPUT -o lo -p tcp --syn ! --dport $MASTER_PORT -j DROP
RANK=1 LOCAL_RANK=1 "$@" & RANK=0 LOCAL_RANK=0 "$@"; wait
"""
RANK = """
import time
from datetime import timedelta
from dpot_scale.engine.peers import lost_peers_named
from dpot_scale.engine.runtime import join_ranks
from dpot_scale.errors import LostPeerError
begun = time.monotonic()
try:
    with lost_peers_named(timedelta(seconds=1.2)):
        join_ranks(timedelta(seconds=1.2))
except LostPeerError as error:
    print(error, time.monotonic() - begun)
"""


@pytest.mark.distributed
def test_a_network_that_lets_no_rank_connect_to_another_is_one_sentence() -> None:
    """As a firewall between two machines, of which the store's port alone is open."""
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    alone = ["unshare", "--net", "bash", "-ec", NETWORK, "ranks"]
    if subprocess.run([*alone, "true"], env=os.environ | own, capture_output=True).returncode:
        pytest.skip("may not make a network of its own")
    ranks = subprocess.run(
        [*alone, sys.executable, "-c", RANK],
        env=os.environ | own | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
    )
    lines = ranks.stdout.splitlines()
    assert len(lines) == 2, ranks.stderr
    for line in lines:
        sentence, _, seconds = line.rpartition(" ")
        assert "tried for 0.1 minutes, 5 times limits.collective, to connect to another" in sentence
        assert float(seconds) > 5 * 1.2
