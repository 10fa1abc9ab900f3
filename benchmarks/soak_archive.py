"""An object store on this machine for benchmarks/soak.py, behind a gate that can be shut."""

import asyncio
import contextlib
import math
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import boto3
from soak_servers import START_SECONDS, StartError, free_port, started

BUCKET = "soak"
CUT_BYTES = 2**18  # of a connection, after which it is cut: less than a shard, more than a marker


class Gate:
    """A port that passes on what comes to it, in a thread, or does not.

    Args:
        port: Of the server behind it.
    """

    def __init__(self, port: int) -> None:
        self.port, self._behind = free_port(), port
        self._most = math.inf  # bytes that a connection may send
        self._writers = set[asyncio.StreamWriter]()
        self._loop = asyncio.new_event_loop()
        self._moves = asyncio.Event()
        self._moves.set()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.open()

    def open(self) -> None:
        """Let new connections come."""
        self._wait_for(self._open())

    def shut(self) -> None:
        """End all connections, and refuse others."""
        self._wait_for(self._shut())

    def stall(self) -> None:
        """Pass nothing on."""
        self._wait_for(self._let_move(may=False))

    def go_on(self) -> None:
        """Pass on what has waited."""
        self._wait_for(self._let_move(may=True))

    def cut(self) -> None:
        """Cut each connection that has sent more than `CUT_BYTES`."""
        self._most = CUT_BYTES

    def mend(self) -> None:
        """Cut none any more."""
        self._most = math.inf

    @property
    def is_disturbed(self) -> bool:
        """Return whether anything does not pass as it should."""
        is_open = self._server.is_serving() and self._moves.is_set()
        return not is_open or self._most < math.inf

    def _wait_for(self, task: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(task, self._loop).result()

    async def _let_move(self, *, may: bool) -> None:
        (self._moves.set if may else self._moves.clear)()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)

    async def _shut(self) -> None:
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, behind = await asyncio.open_connection("127.0.0.1", self._behind)
        both = {writer, behind}
        self._writers |= both
        try:
            await asyncio.gather(self._pass_on(reader, behind), self._pass_on(answers, writer))
        except OSError:
            for one in both:
                one.transport.abort()
        self._writers -= both

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Pass on until the end.

        Raises:
            OSError: a side has ended the connection, or it is cut.
        """
        passed = 0
        while data := await source.read(2**16):
            await self._moves.wait()
            passed += len(data)
            if passed > self._most:
                raise ConnectionResetError
            target.write(data)
            await target.drain()
        target.close()


class ArchiveServer:
    """A server that speaks S3, and keeps what it has in memory; runs reach it through its gate."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self._address, self.gate = f"http://127.0.0.1:{port}", Gate(port)
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.gate.port}",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        self.process = started(command, folder / "archive.log")
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise StartError((folder / "archive.log").read_text()[-2000:])
            time.sleep(0.2)
        self._client: Any = boto3.client("s3", endpoint_url=self._address)
        self._client.create_bucket(Bucket=BUCKET)

    def names(self, url: str) -> list[str]:
        """Return the names of all files below a URL."""
        folder = f"{_key(url)}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=folder)
        entries = (entry for page in pages for entry in page.get("Contents", ()))
        return [entry["Key"].removeprefix(folder) for entry in entries]

    def content(self, url: str) -> dict[str, bytes]:
        """Return all files below a URL, by their names there."""
        return {
            name: self._client.get_object(Bucket=BUCKET, Key=f"{_key(url)}/{name}")["Body"].read()
            for name in self.names(url)
        }

    def remove(self, url: str) -> None:
        """Remove all files below a URL: they lie in memory."""
        for name in self.names(url):
            self._client.delete_object(Bucket=BUCKET, Key=f"{_key(url)}/{name}")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(self._address, timeout=5).close()
            return True
        return False


def url_of(run: str) -> str:
    """Return the URL under which a run or sweep has its archives."""
    return f"s3://{BUCKET}/{run}"


def _key(url: str) -> str:
    return url.removeprefix(f"s3://{BUCKET}/")
