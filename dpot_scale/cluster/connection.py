"""Connects to the Ray cluster at RAY_ADDRESS or on this machine, or starts one here."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled
from ray.exceptions import AuthenticationError

from dpot_scale.cluster.address import (
    SECONDS,
    is_client,
    named_place,
    no_client,
    no_cluster,
    refused,
    require_answer,
)
from dpot_scale.terminal import under_way

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
DEFAULT_TOKEN_PATH = "~/.ray/auth_token"
OTHERS_MAY_JOIN = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR  # read by the processes of Ray
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # a question that costs a cluster nothing
# What a dashboard, a server for clients of Ray, or another program answers to it.
NOT_A_HEAD = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN}


def connect(cpus: int, **own: Any) -> None:  # noqa: ANN401 - options of Ray
    """Join the running cluster; if there is none, start one on this machine.

    Args:
        cpus: The least number of CPUs of a cluster that is started here; it has all of the machine.
        own: More options of `ray.init` for a cluster that is started here.

    Raises:
        UserError: there is no cluster at RAY_ADDRESS, or it refuses this process.
    """
    require_cluster()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if (place := named_place()) is not None:
            with under_way(f"joining the Ray cluster at {place}"):
                ray.init(**quiet)
        else:
            # A machine with fewer cores than are asked for is slow, but not useless.
            cpus = max(len(os.sched_getaffinity(0)), cpus)
            with under_way("starting Ray"):
                _start_or_join({"num_cpus": cpus, "include_dashboard": False, **own}, quiet)
    except AuthenticationError as error:
        raise refused() from error
    except ConnectionError as error:
        raise (no_client() if is_client() else no_cluster()) from error


@contextlib.contextmanager
def connection(cpus: int, **own: Any) -> Iterator[None]:  # noqa: ANN401 - options of Ray
    """Connect for a block: leave the cluster at its end, and end one that was started here.

    A connection that there is already is used, and left to whoever made it.

    Args:
        cpus: As `connect` takes them.
        own: As `connect` takes them.

    Raises:
        UserError: there is no cluster at RAY_ADDRESS, or it refuses this process.
    """
    if ray.is_initialized():
        yield
        return
    connect(cpus, **own)
    try:
        yield
    finally:
        ray.shutdown()


def _start_or_join(own: dict[str, Any], quiet: dict[str, Any]) -> None:
    # Without a token, Ray writes one to ~/.ray/auth_token for the cluster that it starts here. From
    # then on `ray start` would ask for that one, and `ray job submit` would not send it.
    chosen = MODE not in os.environ and TOKEN not in os.environ
    if chosen:
        os.environ[TOKEN] = secrets.token_hex(32)
        # This process may remember the token of a cluster that it was in before.
        AuthenticationTokenLoader.instance().reset_cache()
    try:
        with _on_loopback():
            ray.init(**own, **quiet)
    except ValueError:  # `ray start` has made a cluster, which has its resources and its token
        if chosen:
            del os.environ[TOKEN]
        ray.init(**quiet)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let what Ray starts in a block listen on 127.0.0.1 alone, as by default on macOS.

    Ray takes `_node_ip_address="127.0.0.1"` for the address by which others reach this machine.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(OTHERS_MAY_JOIN)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[OTHERS_MAY_JOIN] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[0]
        del os.environ[OTHERS_MAY_JOIN]
        if before[1] is not None:
            os.environ[OTHERS_MAY_JOIN] = before[1]


def require_cluster() -> None:
    """Make sure that a cluster at RAY_ADDRESS, if it names one, answers and accepts our token.

    Raises:
        UserError: it does not.
    """
    require_answer()
    if (place := named_place()) is None:
        return
    token = _token()
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(place, [("grpc.enable_http_proxy", 0)]) as channel:  # as Ray
        try:  # once: Ray would ask for 20 seconds, with a warning in each
            channel.unary_unary(ALIVE)(b"", timeout=SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise refused() from error
            if error.code() in NOT_A_HEAD and not is_client() and not _is_encrypted():
                raise no_cluster() from error


def _is_encrypted() -> bool:
    """Return whether Ray uses TLS, which the check of the token does not."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}


def _token() -> str | None:
    """Return the token that Ray will send, None if it will send none."""
    if os.environ.get(MODE, "").lower() != "token":
        return None
    if os.environ.get(TOKEN):
        return os.environ[TOKEN]
    path = Path(os.environ.get(TOKEN_PATH, DEFAULT_TOKEN_PATH)).expanduser()
    with contextlib.suppress(OSError):  # Ray says that there is none
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return None
