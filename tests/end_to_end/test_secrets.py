"""No secret of the environment or of an address reaches what a run prints, writes or logs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpot_scale import doctor, sweep, train

SECRET = "Xq7-planted-secret"
ENVIRONMENT = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "RAY_AUTH_TOKEN",
    "PGPASSWORD",
    "HF_TOKEN",
)


def holding_it(folder: Path) -> list[str]:
    """The files below a folder that hold the secret, or have it in their names."""
    return [
        str(path)
        for path in folder.rglob("*")
        if SECRET in path.name or (path.is_file() and SECRET.encode() in path.read_bytes())
    ]


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00" + SECRET.encode())
    assert holding_it(tmp_path) == [str(tmp_path / "a")]


def test_a_run_keeps_the_secrets_of_its_environment(
    start: Callable[..., Any], tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its folder, its data, the database and the artifacts of MLflow, and the terminal."""
    for variable in ENVIRONMENT:
        monkeypatch.setenv(variable, SECRET)
    uri = f"sqlite:///{tiny_yaml.with_name('secrets.db')}"
    ended = start(
        "secrets", "windows=8", "evaluation.every=0", f"tracking.mlflow_uri={uri}"
    ).ended()
    assert ended.code == 0, ended.err
    assert (ended.directory / "mlflow_run_id").exists()
    assert holding_it(tiny_yaml.parent) == []  # what was printed is there, too


@pytest.mark.parametrize("entry", [train, sweep, doctor])
@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{SECRET}@mlflow:5000",
        f"https://{SECRET}@mlflow",
        f"http://mlflow:5000?token={SECRET}",
        f"HTTP://mlflow:5000#{SECRET}",
        f"postgresql://me:{SECRET}@database/mlflow",
        f"mysql+pymysql://database/mlflow?password={SECRET}",
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(
    entry: Any, uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    key = "run.tracking.mlflow_uri" if entry is sweep else "tracking.mlflow_uri"
    assert entry.main([f"{key}={uri}", "--print-config"]) == 2
    out, err = capsys.readouterr()
    assert "environment" in err or "mlflow server" in err
    assert SECRET not in out + err
    file = tmp_path / "mine.yaml"
    preset = "quickstart"
    inner = f"tracking: {{mlflow_uri: '{uri}'}}"
    file.write_text(
        f"extends: {preset}\nname: a\n" + (f"run: {{{inner}}}" if entry is sweep else inner)
    )
    assert entry.main(["--config", str(file), "--print-config"]) == 2
    out, err = capsys.readouterr()
    assert SECRET not in out + err


def test_nothing_listens_beyond_this_machine_by_default() -> None:
    """No code and no file of cluster/ opens a port to the network, but in a container."""
    root = Path(__file__).parents[2]
    everywhere = ("dashboard-host=0.0.0.0", "dashboard-host=::", "--host=0.0.0.0", "--host 0.0.0.0")
    for file in (root / "dpot_scale").rglob("*.py"):
        assert not any(word in file.read_text(encoding="utf-8") for word in everywhere), file
    behind_a_container = {"mlflow/compose.yaml", "mlflow/kubernetes.yaml"}
    for file in (root / "cluster").rglob("*"):
        name = str(file.relative_to(root / "cluster"))
        if file.is_file() and name not in behind_a_container:
            assert not any(word in file.read_text(encoding="utf-8") for word in everywhere), name
