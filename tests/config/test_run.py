"""The config of a run: what its sections accept, and what they mean."""

import pytest

from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.errors import ConfigError


def test_a_batch_that_does_not_divide_shows_the_arithmetic() -> None:
    batch = load_run("quickstart").batch
    assert batch.accumulation_steps(world_size=1) == 2
    assert batch.accumulation_steps(world_size=2) == 1
    with pytest.raises(ConfigError, match=r"8 x 3 = 24"):
        batch.accumulation_steps(world_size=3)


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:s3cret@host:5000",
        "HTTPS://s3cret@host",
        "http://user:s3c#ret@host",
        "https://host/prefix?token=s3cret",
        "postgresql://user:s3cret@host/mlflow",
        "mysql+pymysql://user:s3/cret@host/mlflow",
        "postgresql://host/mlflow?user=me&password=s3cret",
        "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Ds3cret",
    ],
)
def test_a_secret_in_the_address_of_mlflow_is_refused_and_not_repeated(uri: str) -> None:
    for load, key in ((load_run, "tracking"), (load_sweep, "run.tracking")):
        with pytest.raises(ConfigError) as refused:
            load("quickstart", [f"{key}.mlflow_uri={uri}"])
        said = str(refused.value)
        assert "mlflow_uri may" in said
        assert "MLFLOW_TRACKING_PASSWORD" in said or "mlflow server --backend-store-uri" in said
        assert not any(part in said for part in ("s3c", "cret"))


@pytest.mark.parametrize(
    "uri",
    [
        "http://host:5000",
        "https://host/prefix",
        "sqlite:////home/me@work/pass:word/mlflow.db",
        "postgresql://user@host:5432/mlflow",
        "databricks://profile",
    ],
)
def test_an_address_of_mlflow_without_a_secret_is_taken(uri: str) -> None:
    assert load_run("quickstart", [f"tracking.mlflow_uri={uri}"]).tracking.mlflow_uri == uri
