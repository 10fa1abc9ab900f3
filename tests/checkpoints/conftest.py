"""Places for archives, of three kinds."""

import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a server on this machine that speaks S3."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A folder on this machine, what behaves as an object store does, and one over HTTP."""
    if request.param == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "any")
        yield f"s3://{re.sub('[^a-z0-9]+', '-', tmp_path.name.lower())}/archive"
        fsspec.filesystem("s3").clear_instance_cache()
        return
    yield f"file://{tmp_path}/archive" if request.param == "file" else "memory://archive"
    fsspec.filesystem("memory").store.clear()
