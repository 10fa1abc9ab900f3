"""The config of a run: what its sections accept, and what they mean."""

from pathlib import Path

import pytest

from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.config.optim import Length
from dpot_scale.errors import ConfigError


def test_a_batch_that_does_not_divide_shows_the_arithmetic() -> None:
    batch = load_run("quickstart").batch
    assert batch.accumulation_steps(world_size=1) == 2
    assert batch.accumulation_steps(world_size=2) == 1
    with pytest.raises(ConfigError, match=r"8 x 3 = 24"):
        batch.accumulation_steps(world_size=3)


@pytest.mark.parametrize("preset", ["quickstart", "paper_ti"])  # the latter names its warm-up
@pytest.mark.parametrize(
    ("override", "warmup"),
    [
        ("optim.warmup.windows=64", Length(windows=64)),
        ("optim.warmup.share=0.3", Length(share=0.3)),
        ("optim.warmup={windows: 64}", Length(windows=64)),
        ("optim.warmup_fraction=0.1", Length(share=0.1)),
    ],
)
def test_a_length_replaces_the_one_below_it(preset: str, override: str, warmup: Length) -> None:
    assert load_run(preset, [override]).optim.warmup == warmup


def test_shares_are_read_as_older_configs_spell_them(tmp_path: Path) -> None:
    older, newer = tmp_path / "older.yaml", tmp_path / "newer.yaml"
    older.write_text("extends: quickstart\noptim: {warmup_fraction: 0.1, decay_fraction: 0.3}\n")
    newer.write_text(f"extends: {older}\noptim: {{warmup: {{windows: 64}}}}\n")
    optim = load_run(str(older)).optim
    assert (optim.warmup, optim.decay) == (Length(share=0.1), Length(share=0.3))
    optim = load_run(str(newer)).optim
    assert (optim.warmup, optim.decay) == (Length(windows=64), Length(share=0.3))


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
