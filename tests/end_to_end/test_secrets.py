"""No secret of the environment or of an address reaches what a run prints, writes or logs."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpot_scale import doctor, evaluate, mirror, sweep, train, weights
from dpot_scale.config.load import dump, load_run
from dpot_scale.config.places import RUN_CONFIG

SECRET = "Xq7-planted-secret"
ENVIRONMENT = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "RAY_AUTH_TOKEN",
    "PGPASSWORD",
    "HF_TOKEN",
    "FSSPEC_S3_SECRET",
)
# Nothing listens there: a request through it fails.
PROXY = f"http://me:{SECRET}@127.0.0.1:9"


# The second trial diverges at once.
SWEEP = """
name: secrets
run:
  extends: {run}
  output: {folder}/runs
  evaluation: {{every: 0}}
  limits: {{rollbacks: 0}}
  tracking: {{mlflow_uri: sqlite:///{folder}/mlflow.db}}
design:
  - ladder: {{narrow: {{width: 16}}}}
  - ablation: {{broken: {{run.optim.lr: 1.0e+30}}}}
windows: [96]
max_attempts: 1
"""


def holding_it(folder: Path, secret: str = SECRET) -> list[str]:
    """The files below a folder that hold the secret, or have it in their names."""
    return [
        str(path)
        for path in folder.rglob("*")
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes())
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


@pytest.mark.parametrize("entry", [train, sweep, doctor])
@pytest.mark.parametrize(
    "override",
    [
        f"checkpoint.archive=s3://key:{SECRET}@bucket",
        f"checkpoint.archive=key:{SECRET}@bucket",
        f"checkpoint.archive=https://host/path?token={SECRET}",
        f"start.source=https://me:{SECRET}@host/w.pth",
        f"data.root=https://me:{SECRET}@host",
        f"output=s3://me:{SECRET}@host",
        f"tracking.mlflow_uri=htp//me:{SECRET}@host",
        f"tracking.mlflow_password={SECRET}",
    ],
)
def test_no_other_field_takes_a_secret_and_no_sentence_repeats_it(
    entry: Any, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main([f"run.{override}" if entry is sweep else override, "--print-config"]) == 2
    out, err = capsys.readouterr()
    assert SECRET not in out + err


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "RAY_ADDRESS", "HTTP_PROXY"])
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (weights, ["inspect", "models:/a/1"]),
        (evaluate, ["models:/a/1"]),
        (train, ["start.source=models:/a/1"]),
        (doctor, []),
        (sweep, ["run"]),
        (mirror, ["run", "--mlflow-uri", f"http://me:{SECRET}@127.0.0.1:9"]),
    ],
)
def test_an_address_of_the_environment_is_shown_without_its_secret(
    entry: Any,
    words: list[str],
    variable: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where nothing listens at it. A Ray cluster is sought first, so none is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv(variable, PROXY.replace("http", "ray") if "RAY" in variable else PROXY)
    (tmp_path / "run").mkdir()
    config = dump(load_run("quickstart", [f"output={tmp_path}", "name=run"]))
    (tmp_path / "run" / RUN_CONFIG).write_text(config)
    assert entry.main(words) == 2
    out, err = capsys.readouterr()
    assert err
    assert SECRET not in out + err + caplog.text
    assert holding_it(tmp_path) == []


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_sweep_keeps_the_secrets_of_its_environment(
    tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its journal, report and page, in MLflow, and in what Ray writes; one trial fails."""
    for variable in (*ENVIRONMENT, "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(variable, SECRET)
    for variable in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, PROXY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("DPOT_SCALE_HOME", str(tmp_path))
    config = tmp_path / "sweep.yaml"
    config.write_text(SWEEP.format(run=tiny_yaml, folder=tmp_path))
    # Its folder holds sockets, whose paths may have a hundred characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as ray:
        monkeypatch.setenv("RAY_TMPDIR", ray)
        command = [sys.executable, "-m", "dpot_scale.sweep", "run", "--config", str(config)]
        with (tmp_path / "driver.log").open("w") as log:
            ended = subprocess.run(command, stdout=log, stderr=log, timeout=500, check=False)
        said = (tmp_path / "driver.log").read_text()
        assert "left out: narrow-broken" in said, said
        assert ended.returncode != 0
        assert list(Path(ray).rglob("*.log"))
        assert holding_it(Path(ray)) == []
    assert {"report.html", "journal.jsonl"} <= {path.name for path in tmp_path.rglob("*")}
    assert holding_it(tmp_path) == []


def test_nothing_listens_beyond_this_machine_by_default() -> None:
    """No code and no file of cluster/ opens a port to the network, but in a container."""
    root = Path(__file__).parents[2]
    everywhere = re.compile(r"(host|address|bind)\W{1,4}(0\.0\.0\.0|\[?::\]?)(?![\w.])")
    for word in ("dashboard-host: 0.0.0.0  #", "--host=0.0.0.0", "--host 0.0.0.0", "host='::'"):
        assert everywhere.search(word)
    for file in (root / "dpot_scale").rglob("*.py"):
        assert not everywhere.search(file.read_text(encoding="utf-8")), file
    in_a_pod = {
        f"kuberay/{name}.yaml" for name in ("rayjob", "raycluster", "raycluster_autoscaling")
    }
    in_a_pod |= {"mlflow/compose.yaml", "mlflow/kubernetes.yaml"}
    for file in (root / "cluster").rglob("*"):
        name = str(file.relative_to(root / "cluster"))
        if file.is_file():
            opens = everywhere.search(file.read_text(encoding="utf-8")) is not None
            assert opens == (name in in_a_pod), name
