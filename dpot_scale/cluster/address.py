"""Checks at once that there is a cluster at RAY_ADDRESS; Ray itself would seek it for minutes."""

import os
import re
import socket

from dpot_scale.errors import UserError

VARIABLE = "RAY_ADDRESS"
CLIENT = "ray://"
NOT_AN_ADDRESS = {"", "auto", "local"}  # Ray seeks a cluster on this machine, or starts one
WEB = re.compile(r"https?://", re.IGNORECASE)
SPELLING = re.compile(rf"({CLIENT})?[^\s/]+:\d+")  # another one ends in a traceback of Ray
DASHBOARD_PORT = 8265  # unless `ray start` was told otherwise
SECONDS = 5.0


def named_place() -> str | None:
    """Return the host:port that RAY_ADDRESS names, if it names one."""
    address = os.environ.get(VARIABLE, "")
    return None if address in NOT_AN_ADDRESS else address.rpartition("://")[2].rstrip("/")


def is_client() -> bool:
    """Return whether RAY_ADDRESS names a Ray Client server, as ray:// addresses do."""
    return os.environ.get(VARIABLE, "").startswith(CLIENT)


def require_answer() -> None:
    """Make sure that something listens at RAY_ADDRESS, if that names a machine.

    Raises:
        UserError: nothing does, or it is the dashboard.
    """
    place = named_place()
    if place is None:
        return
    address = os.environ[VARIABLE]
    if not WEB.match(address) and not SPELLING.fullmatch(address):
        raise no_cluster()
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise no_cluster() from error
    if WEB.match(address) or int(port) == DASHBOARD_PORT:
        raise UserError(
            f"{VARIABLE}={address} is a dashboard, which only takes jobs: put `ray job submit "
            "--working-dir . --` before this command, or give the host:port of `ray start --head` "
            "(its port is 6379 unless you chose another)"
        )


def no_cluster() -> UserError:
    """Return the error for a RAY_ADDRESS at which there is no cluster."""
    return UserError(
        f"there is no Ray cluster at {VARIABLE}={os.environ.get(VARIABLE)}; give the host:port of "
        "`ray start --head`, or unset it to use this machine"
    )


def no_client() -> UserError:
    """Return the error for a ray:// address that answers, but does not let this process in."""
    return UserError(
        f"{VARIABLE}={os.environ.get(VARIABLE)} does not let this process in: it is no server for "
        "clients of Ray, or asks for a token, which RAY_AUTH_MODE=token and RAY_AUTH_TOKEN give"
    )


def refused() -> UserError:
    """Return the error for a cluster that asks for another token than this process has."""
    place = os.environ.get(VARIABLE)
    return UserError(
        f"the Ray cluster {f'at {VARIABLE}={place}' if place else 'on this machine'} asks for "
        "another token than this process has: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what "
        "`ray get-auth-token` prints on its head node"
    )
