"""The folder layout of Hugging Face: written and read without a network."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

import dpot_scale as ds
from dpot_scale.checkpoints.weights import read
from dpot_scale.errors import CheckpointError

pytest.importorskip("huggingface_hub")
HISTORY = np.random.default_rng(0).normal(size=(3, 2, 16, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("it connects")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_there_and_back(of_two: Path, tmp_path: Path) -> None:
    from dpot_scale.serving.hub import HubModel

    model = ds.load(of_two)
    model.save_pretrained(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    content = json.loads((folder / "config.json").read_text())
    assert content["model"]["width"] == model.config.dimensions()["width"]
    assert content["data"]["datasets"]["flow"]["names"] == ["u", "v"]
    assert "library_name: dpot_scale" in (folder / "README.md").read_text()
    expected = model.for_dataset("flow").rollout(HISTORY, 3)
    again = HubModel.from_pretrained(folder)
    assert isinstance(again, HubModel)
    for found in (again.for_dataset("flow"), ds.load(folder, dataset="flow")):
        np.testing.assert_array_equal(found.rollout(HISTORY, 3), expected)
    again.save_pretrained(tmp_path / "copy")
    assert read(tmp_path / "copy").data == read(of_two).data


def test_a_precision_is_kept_and_chosen(of_two: Path, tmp_path: Path) -> None:
    from dpot_scale.serving.hub import HubModel

    ds.load(of_two, torch.bfloat16).save_pretrained(tmp_path / "half")
    assert read(tmp_path / "half").state["pos_embed"].dtype == torch.bfloat16
    model = HubModel.from_pretrained(tmp_path / "half", dtype=torch.bfloat16, device="cpu")
    assert model.for_dataset("flow").rollout(HISTORY, 1) is not None


def test_two_models_in_one_folder_are_one_sentence(of_two: Path, tmp_path: Path) -> None:
    from dpot_scale.serving.hub import HubModel

    ds.load(of_two).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"depth": 1', '"depth": 2'))
    with pytest.raises(CheckpointError, match=r"config\.json and model\.safetensors describe two"):
        HubModel.from_pretrained(tmp_path)


def test_without_the_package_it_is_one_sentence(of_two: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "import dpot_scale as ds\n"
        "from dpot_scale.errors import ConfigError\n"
        "try: ds.load(sys.argv[1]).save_pretrained(sys.argv[2])\n"
        "except ConfigError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(of_two), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "huggingface_hub is not installed: pip install 'dpot_scale[hub]'\n"


@pytest.mark.parametrize(
    "place",
    ["absent", "./absent", "../absent", "~/absent", "/absent", "/a/b", "a/b/c", "runs/"],
)
def test_a_folder_that_is_not_there_is_not_sought_in_the_hub(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpot_scale.serving.hub import HubModel

    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist: give a folder that `save_pretr"):
        HubModel.from_pretrained(place)


def test_a_folder_without_weights_and_a_file(of_two: Path, tmp_path: Path) -> None:
    from dpot_scale.serving.hub import HubModel

    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors, which `save_pretr"):
        HubModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a file, and no folder: give a folder"):
        HubModel.from_pretrained(of_two)
    absent = Path("owner/name")
    with pytest.raises(CheckpointError, match="owner/name does not exist"):
        HubModel.from_pretrained(absent)


def test_beside_a_folder_of_that_name_there_is_no_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpot_scale.serving.hub import HubModel

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(CheckpointError, match="runs/flow does not exist"):
        HubModel.from_pretrained("runs/flow")


def test_what_the_hub_does_not_give_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from dpot_scale.serving import hub

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ConnectionError("no way\nto go")

    monkeypatch.setattr(hub.ModelHubMixin, "from_pretrained", classmethod(refuse))
    said = "^owner/name is no folder here, and the hub does not give it: no way$"
    with pytest.raises(CheckpointError, match=said):
        hub.HubModel.from_pretrained("owner/name")
