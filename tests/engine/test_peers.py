"""Which errors of collective calls speak of another rank; tests/runs/test_pulse.py loses some."""

import pytest
from torch import distributed as dist

from dpot_scale.engine.peers import is_of_lost_peer


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
