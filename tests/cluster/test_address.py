"""RAY_ADDRESS is tried before Ray seeks what is not there."""

import socket

import pytest

from dpot_scale.cluster.address import require_answer
from dpot_scale.errors import UserError


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:9", "ray://127.0.0.1:9", "http://127.0.0.1:9", "127.0.0.1", "[::1]:9999999"],
)
def test_nobody_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as caught:
        require_answer()
    assert str(caught.value).startswith(f"there is no Ray cluster at RAY_ADDRESS={address}; ")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_somebody_there(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{server.getsockname()[1]}")
        require_answer()


@pytest.mark.parametrize("spelling", ["{}/", " {}", "RAY://{}", "ray://{}/", "gcs://{}"])
def test_what_ray_cannot_read(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = spelling.format(f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError) as caught:
            require_answer()
    assert str(caught.value).startswith(f"there is no Ray cluster at RAY_ADDRESS={address}; ")


@pytest.mark.parametrize("address", [None, "", "auto", "local"])
def test_ray_seeks_here_itself(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    require_answer()


@pytest.mark.parametrize("spelling", ["http://{}", "http://{}/", "HTTP://{}"])
def test_a_dashboard_is_told_apart(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = spelling.format(f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=f"^RAY_ADDRESS={address} is a dashboard, which only"):
            require_answer()
        # Its port tells it apart where no scheme does.
        monkeypatch.setattr("dpot_scale.cluster.address.DASHBOARD_PORT", server.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UserError, match="is a dashboard"):
            require_answer()
