"""An upload in several parts to a server that is paused, or killed, in the middle of them."""

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from archives import archive_of
from test_kills import WORLD, Engine

from dpot_scale.checkpoints import answers
from dpot_scale.checkpoints.archive import UnreachableError
from dpot_scale.checkpoints.checkpoint import TrainState, verify
from dpot_scale.checkpoints.store import CheckpointStore
from dpot_scale.config.run import CheckpointConfig
from dpot_scale.engine.state import OF_ADAM, WEIGHT, Part, Snapshot
from tests.conftest import free_port

PART_BYTES = 5 * 2**20  # the smallest that S3 takes
NUMBERS = 720_000  # of 4 bytes, in each of four tensors


class LargeEngine(Engine):
    """Keeps its number in 11 MiB: a file of three parts."""

    def snapshot(self) -> Snapshot:
        numbers = torch.full((NUMBERS,), float(self.value))
        parts = [Part(name, kind, 0, numbers) for name in "ab" for kind in (WEIGHT, OF_ADAM)]
        shapes = {"a": (NUMBERS,), "b": (NUMBERS,)}
        return Snapshot(shapes, parts, {"adam_steps": self.value})


class Server:
    """A process that speaks S3. What it holds is gone when it is killed."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("a") as log:
            words = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
            self.process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
        address = f"http://127.0.0.1:{self.port}/moto-api/"
        while True:
            assert self.process.poll() is None, self._log.read_text()
            with suppress(OSError), urllib.request.urlopen(address, timeout=5):
                return
            time.sleep(0.1)

    def interrupt(self, how: str) -> None:
        """Pause or kill it."""
        self.process.send_signal(signal.SIGSTOP if how == "paused" else signal.SIGKILL)

    def come_back(self, how: str) -> None:
        """Let it go on, or start it anew."""
        if how == "paused":
            self.process.send_signal(signal.SIGCONT)
        else:
            self.process.wait()
            self.start()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: PART_BYTES)
    server = Server(tmp_path / "log")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    yield server
    server.end()
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize("how", ["paused", "killed"])
def test_no_part_of_a_checkpoint_counts_and_the_next_sync_completes_it(
    how: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = re.sub("[^a-z0-9]+", "-", tmp_path.name)
    url, here = f"s3://{bucket}/archive", tmp_path / "run" / "checkpoints"
    kept = CheckpointConfig()
    archive = archive_of(url)

    def save(step: int) -> None:
        store = CheckpointStore(here, config=kept, identity="hash", world=WORLD)
        store.save(LargeEngine(step), TrainState(step=step))

    save(1)
    archive.sync(here, kept)
    save(2)
    interrupted: list[str] = []
    noted = answers._Moved.call

    def interrupts(moved: Any, *args: object, **kwargs: object) -> None:
        if 0 < moved.value < moved.size and not interrupted:
            server.interrupt(how)
            interrupted.append(f"after {moved.value} of {moved.size} bytes")
        noted(moved, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(answers._Moved, "call", interrupts)
        patch.setattr(answers, "ANSWER_SECONDS", 2.0)
        patch.setattr(answers, "SLOWEST", 1e9)
        with pytest.raises(UnreachableError, match="is not up to date"):
            archive.sync(here, kept)
        assert len(interrupted) == 1
        with pytest.raises(UnreachableError, match="cannot read"):
            archive_of(url).steps()
    server.come_back(how)
    # What is left of the upload may still go on, and another process look into the archive.
    assert archive_of(url).steps() == ({1} if how == "paused" else set())
    found = archive_of(url).fetch(tmp_path / "meanwhile")
    assert (found and found.state.step) == (1 if how == "paused" else None)
    archive.sync(here, kept)
    assert archive.steps() == {1, 2}
    fetched = archive_of(url).fetch(tmp_path / "empty" / "run" / "checkpoints")
    assert fetched is not None
    assert fetched.state.step == 2
    assert verify(fetched) == []
