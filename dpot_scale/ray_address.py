"""Whether there is a cluster where RAY_ADDRESS says: Ray itself would seek it for minutes."""

import os
import socket

from dpot_scale.errors import UserError

VARIABLE = "RAY_ADDRESS"
NOT_AN_ADDRESS = {"", "auto", "local"}  # Ray seeks a cluster on this machine, or starts one
SECONDS = 5.0


def require_answer() -> None:
    """Make sure that something listens at RAY_ADDRESS, if that names a machine.

    Raises:
        UserError: nothing does.
    """
    address = os.environ.get(VARIABLE, "")
    if address in NOT_AN_ADDRESS:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise no_cluster() from error


def no_cluster() -> UserError:
    """Return what to say where RAY_ADDRESS leads to no cluster."""
    return UserError(
        f"there is no Ray cluster at {VARIABLE}={os.environ.get(VARIABLE)}; give the host:port of "
        "`ray start --head`, or unset it to use this machine"
    )
