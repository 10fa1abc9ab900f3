"""Which errors of collective calls speak of another rank; tests/runs/test_pulse.py loses some."""

from datetime import timedelta

import pytest
from torch import distributed as dist

from dpot_scale.engine.peers import is_of_lost_peer, lost_peers_named, reason
from dpot_scale.errors import LostPeerError


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
            "waited 3 minutes in vain for another rank",
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
