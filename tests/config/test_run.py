"""The config of a run: what its sections accept, and what they mean."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from dpot_scale.config.identity import Contents, identity
from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.config.model import FAMILIES, ModelConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.plan import plan
from dpot_scale.train import main

FIRST = str(Path(__file__).parents[1] / "golden" / "first_quickstart.yaml")  # sets few fields


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


NO_WIDTH = (
    "optim.reference_width=128 makes the learning rate follow model.width, and a flat has none: "
    "set it to null"
)


class FlatConfig(ModelConfig):
    """A family of models that no width describes."""

    family: Literal["flat"] = "flat"
    points: int = 3


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    family = SimpleNamespace(FAMILY=SimpleNamespace(config=FlatConfig))
    monkeypatch.setitem(sys.modules, "flat.family", family)
    monkeypatch.setitem(FAMILIES, "flat", "flat")


@pytest.mark.usefixtures("flat")
def test_a_rate_cannot_follow_a_width_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Found before any data are made."""
    overrides = ["model.family=flat", "optim.reference_width=128"]
    assert main(["--config", "quickstart", *overrides]) == 2
    assert capsys.readouterr().err == f"error: config quickstart: {NO_WIDTH}\n"
    assert (
        load_run("quickstart", [*overrides, "optim.reference_width=null"]).model.own_width() is None
    )


@pytest.mark.usefixtures("flat")
def test_in_a_ladder_it_is_found_by_the_plan() -> None:
    overrides = ["ladder.flat={family: flat}", "run.optim.reference_width=128"]
    with pytest.raises(
        ConfigError, match=f"^trial flat: config sweep quickstart-sweep: {NO_WIDTH}"
    ):
        plan(load_sweep("quickstart", overrides))


def test_rates_follow_the_width_of_those_families_that_are_named() -> None:
    """An FNO of equal FLOPs is ten times as narrow, and its rates are not twice as high."""
    narrow = ["model.family=fno", "model.width=10"]
    fno = load_run("quickstart", narrow)
    assert fno.settled_optim == fno.optim
    vit = load_run("quickstart", ["model.family=vit", "model.width=64", "model.heads=4"])
    assert vit.settled_optim.lr == pytest.approx(vit.optim.lr * 2**0.25)
    named = load_run("quickstart", [*narrow, "optim.reference_width={fno: 160}"])
    assert named.settled_optim.lr == pytest.approx(2 * named.optim.lr)
    with pytest.raises(ConfigError, match=r"optim\.reference_width\.fno=0: must be at least 1"):
        load_run("quickstart", ["optim.reference_width={fno: 0}"])
    with pytest.raises(ConfigError, match=r"no family 'fon' \(did you mean 'fno'\?\)"):
        load_run("quickstart", ["optim.reference_width={fon: 32}"])


@pytest.mark.parametrize("width", ["0", "-1", "true", "1.5"])
def test_a_width_of_reference_is_a_positive_number(width: str) -> None:
    with pytest.raises(ConfigError, match=r"optim\.reference_width="):
        load_run("quickstart", [f"optim.reference_width={width}"])


ADAM, MUON = ["optim.kind=adam"], ["optim.kind=muon"]


def test_fairscale_has_no_muon() -> None:
    fairscale = ["engine.kind=fairscale", "engine.deepspeed=zero0_fp32"]
    with pytest.raises(ConfigError, match=r"optim\.kind=muon needs engine\.kind=deepspeed"):
        load_run("quickstart", [*MUON, *fairscale])


@pytest.mark.parametrize(
    "zero",
    [
        {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}},
        {"stage": 3, "offload_optimizer": {"device": "cpu", "super_offload": True}},
        {"stage": 2, "offload_optimizer": {"device": "cpu"}, "zenflow": {"topk_ratio": 0.1}},
    ],
)
def test_muon_is_refused_where_deepspeed_updates_masters_itself(
    zero: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "special.json"
    path.write_text(json.dumps({"zero_optimization": zero}))
    load_run("quickstart", [f"engine.deepspeed={path}", *ADAM])
    with pytest.raises(ConfigError, match=r"special\.json asks for something else"):
        load_run("quickstart", [f"engine.deepspeed={path}", *MUON])


def test_muon_changes_the_identity_of_a_run_and_its_fields_alone_do_not() -> None:
    contents = Contents(datasets={})
    adam, muon = (identity(load_run(FIRST, o), contents) for o in ([], MUON))
    assert adam != muon
    spelled = [*ADAM, "optim.muon_lr=0.02", "optim.muon_momentum=0.95"]
    assert identity(load_run(FIRST, spelled), contents) == adam
