"""Reaching a cluster: one that does not take this process's token says so in one sentence."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest
import ray
from ray._private.services import get_node_ip_address
from ray._raylet import AuthenticationTokenLoader

from dpot_scale.cluster.connection import ALIVE, OTHERS_MAY_JOIN, connect, require_cluster
from dpot_scale.errors import UserError

RIGHT = "the-token-of-the-cluster"


class Head(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers as the head node of a cluster does, whatever it is asked."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            sent = dict(details.invocation_metadata).get("authorization")
            if sent != f"Bearer {RIGHT}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        assert details.method == ALIVE
        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The host:port of one; RAY_ADDRESS names it."""
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Head()])
    place = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    monkeypatch.setenv("RAY_ADDRESS", place)
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(variable, raising=False)
    yield place
    server.stop(None)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RAY_AUTH_TOKEN": RIGHT},  # not sent without the mode
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"},
    ],
)
def test_a_cluster_that_refuses(
    environment: dict[str, str], head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as caught:
        connect(1)
    assert str(caught.value) == (
        f"the Ray cluster at RAY_ADDRESS={head} asks for another token than this process has: set "
        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head "
        "node"
    )


def test_the_token_is_sought_where_ray_seeks_it(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError):
        require_cluster()
    default, chosen = tmp_path / ".ray" / "auth_token", tmp_path / "chosen"
    default.parent.mkdir()
    default.write_text(f"{RIGHT}\n")
    require_cluster()
    chosen.write_text("another")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(chosen))
    with pytest.raises(UserError):
        require_cluster()
    monkeypatch.setenv("RAY_AUTH_TOKEN", RIGHT)
    require_cluster()


def test_what_listens_there_may_be_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server for clients speaks gRPC without this question, a dashboard HTTP."""
    server = grpc.server(ThreadPoolExecutor(1))
    web = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=web.serve_forever, daemon=True).start()
    ports = server.add_insecure_port("127.0.0.1:0"), web.server_port
    server.start()
    try:
        for port in ports:
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            with pytest.raises(UserError, match=r"^there is no Ray cluster at RAY_ADDRESS="):
                require_cluster()
    finally:
        server.stop(None)
        web.shutdown()
        web.server_close()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster and no token are named, and none that is set reaches a later test."""
    for variable in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


@pytest.mark.usefixtures("nowhere")
def test_a_second_cluster_of_one_process_gets_its_own_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader, sent = AuthenticationTokenLoader.instance(), list[bool]()

    def init(**_: object) -> None:
        token = loader.get_raw_token(ignore_auth_mode=True)
        sent.append(token == os.environ["RAY_AUTH_TOKEN"])

    monkeypatch.setattr(ray, "init", init)
    connect(1)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    connect(1)
    loader.reset_cache()
    assert sent == [True, True]


@pytest.mark.usefixtures("nowhere")
def test_what_is_started_here_listens_on_loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is seen where a sweep runs in tests/end_to_end/test_cooldown.py."""
    monkeypatch.setenv(OTHERS_MAY_JOIN, "1")
    before, inside = get_node_ip_address(), []

    def init(**_: object) -> None:
        inside.append((get_node_ip_address(), os.environ[OTHERS_MAY_JOIN]))

    monkeypatch.setattr(ray, "init", init)
    connect(1)
    assert inside == [("127.0.0.1", "0")]
    assert (get_node_ip_address(), os.environ[OTHERS_MAY_JOIN]) == (before, "1")
