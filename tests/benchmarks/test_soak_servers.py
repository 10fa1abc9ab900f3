"""What runs of benchmarks/soak.py use: a gate before an object store, a disk that can fail."""

import contextlib
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


class Echo(socketserver.StreamRequestHandler):
    """Sends each line back."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


def test_a_gate_passes_on_waits_refuses_and_cuts(soak: Any) -> None:
    def sent(text: bytes, seconds: float = 10.0) -> bytes:
        with socket.create_connection(("127.0.0.1", gate.port), timeout=seconds) as connection:
            connection.sendall(text + b"\n")
            return connection.makefile("rb").readline()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gate = soak.Gate(server.server_address[1])
        large = bytes(2 * soak.CUT_BYTES)
        assert (sent(b"open"), sent(large)) == (b"open\n", large + b"\n")
        gate.stall()
        assert gate.is_disturbed
        with pytest.raises(TimeoutError):
            sent(b"silent", seconds=0.3)
        gate.go_on()
        gate.cut()
        assert gate.is_disturbed
        assert sent(b"small") == b"small\n"
        with contextlib.suppress(ConnectionError):
            assert sent(large) == b""  # which some systems say in place of an error
        gate.mend()
        with socket.create_connection(("127.0.0.1", gate.port), timeout=10.0) as before:
            before.sendall(b"here\n")
            assert before.recv(5) == b"here\n"
            gate.shut()
            with contextlib.suppress(ConnectionError):
                assert before.recv(1) == b""
        assert gate.is_disturbed
        with pytest.raises(ConnectionError):
            sent(b"refused")
        gate.open()
        assert not gate.is_disturbed
        assert sent(b"open again") == b"open again\n"
        server.shutdown()


# Reads a disk as it is, away, damaged and mended.
READS = """
import sys
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, sys.argv[1])
import soak_data

place = Path(sys.argv[2])
(place / soak_data.SHARD).parent.mkdir(parents=True)
fields = np.random.default_rng(0).random((8, 12, 1, 32, 32), np.float32)
with h5py.File(place / soak_data.SHARD, "w") as file:
    file["fields"] = fields
disk = soak_data.DataDisk(place)


def read():
    try:
        with h5py.File(place / soak_data.SHARD) as file:
            return file["fields"][:]
    except OSError as error:
        return str(error)


assert np.array_equal(read(), fields)
disk.take_away()
assert "Input/output error" in read(), read()
disk.mend()
assert np.array_equal(read(), fields)
disk.damage()
bad = np.isnan(read()).all((2, 3, 4))
assert bad.sum() == 1 and bad[soak_data.TRAJECTORY, soak_data.FRAME]
disk.mend()
assert np.array_equal(read(), fields)
"""


def test_a_disk_of_data_is_away_and_damaged(tmp_path: Path) -> None:
    own = ["unshare", "--mount"]  # so that nothing stays mounted
    command = [*own, sys.executable, "-c", READS, str(FOLDER), str(tmp_path / "data")]
    if subprocess.run([*own, "losetup", "--find"], capture_output=True, check=False).returncode:
        pytest.skip("only root with a loop device can mount one")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
