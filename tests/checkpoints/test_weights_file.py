import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import dpot_scale
from dpot_scale.checkpoints.weights import load_model, read
from dpot_scale.checkpoints.weights_file import save_model, stream_model
from dpot_scale.data.channels import Channels, TrainingData
from dpot_scale.errors import CheckpointError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT

SMALL = DPOTConfig(
    size="debug", width=32, depth=1, grid=16, patch=4, channels=2, history=3,
    time_aggregation="mlp", normalize=True, modes=2, horizon=2,
)  # fmt: skip


@pytest.fixture
def model() -> DPOT:
    torch.manual_seed(0)
    return DPOT(SMALL).eval()


def test_an_export_loads_as_the_same_model(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model.config, model.state_dict())
    loaded = dpot_scale.load_model(str(path))
    assert loaded.config.dimensions() == model.config.dimensions()
    assert not loaded.training
    frames = torch.randn(2, 3, 2, 16, 16)
    torch.testing.assert_close(loaded(frames), model(frames), rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_streamed_export_is_read_as_one_that_was_saved_whole(tmp_path, model):
    saved, streamed = tmp_path / "saved.safetensors", tmp_path / "streamed.safetensors"
    channels = Channels(
        names=("u", "v"), scored=(True, True), mean=(1, 0), std=(0.1, 1), frame_interval=0.5
    )
    data = TrainingData(datasets={"flow": channels})
    save_model(saved, model.config, model.state_dict(), data)
    stream_model(streamed, model.config, model.state_dict().items(), data)
    found, expected = read(streamed), read(saved)
    assert (found.model, found.data) == (expected.model, data)
    assert expected.data == data
    torch.testing.assert_close(found.state, expected.state, rtol=0, atol=0)


def test_half_precision_files_load_in_fp32(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model.config, model.bfloat16().state_dict())
    loaded = load_model(path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_nothing_is_written_where_keys_do_not_fit(tmp_path, model):
    state = model.state_dict()
    del state["pos_embed"]
    with pytest.raises(CheckpointError, match="missing: pos_embed"):
        save_model(tmp_path / "model.safetensors", model.config, state)
    assert not list(tmp_path.iterdir())


def export_with(path: Path, model: DPOT, metadata: dict[str, str] | None) -> Path:
    save_file(dict(model.state_dict()), path, metadata=metadata)
    return path


def described(**changes: object) -> dict[str, str]:
    return {"format": "2", "model": json.dumps(SMALL.dimensions() | changes)}


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        (None, "no 'architecture' in its metadata"),
        ({"architecture": "{"}, "is not JSON"),
        ({"architecture": "{}"}, "does not say the channels, depth"),
        ({"architecture": "[]"}, "the dimensions of its model must be a JSON object"),
        ({"format": "two", "model": "{}"}, "its 'format' is not JSON"),
        ({"format": "2", "architecture": "{}"}, "no 'model' in its metadata"),
        ({"format": "4", "model": "{}"}, r"another version .* \(its format is 4, and this"),
        (described() | {"data": "{"}, "its 'data' is not JSON"),
        (described() | {"data": "{}"}, r"says nothing usable of the data of its model: datasets"),
        (described(colour=1), r"another version .* \(it has colour, which this version does"),
        (
            described(family="mamba"),
            r"another version .* of the family 'mamba', which is none of: dpot, vit, fno",
        ),
        (described(heads=5), "heads=5: Input should be a divisor of width=32"),
        (described(width="wide"), "describes no dpot: width='wide'"),
        (described(target="change"), "describes no dpot: target='change'"),
        (described(depth=2), r"missing: blocks.1.norm1.weight \(32,\)"),
    ],
)
def test_an_export_that_describes_another_model_is_refused(tmp_path, model, metadata, sentence):
    path = export_with(tmp_path / "model.safetensors", model, metadata)
    with pytest.raises(CheckpointError, match=sentence):
        read(path)


def test_an_export_from_before_a_field_existed_means_what_it_meant(tmp_path, model):
    dimensions = SMALL.dimensions()
    del dimensions["target"]
    path = export_with(
        tmp_path / "model.safetensors", model, {"format": "2", "model": json.dumps(dimensions)}
    )
    assert read(path).model.target == "frame"


def test_an_export_of_the_first_version_is_read(tmp_path, model):
    dimensions = SMALL.dimensions()
    del dimensions["family"], dimensions["target"]
    path = export_with(
        tmp_path / "model.safetensors", model, {"architecture": json.dumps(dimensions)}
    )
    assert read(path).model.dimensions() == SMALL.dimensions()


def test_a_truncated_export_is_refused(tmp_path, model):
    path = export_with(tmp_path / "model.safetensors", model, described())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged safetensors file"):
        load_model(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 10**7},
        {"width": 2 * 10**12},
        {"grid": 4 * 10**9},
        {"channels": 10**30},
    ],
)
def test_a_file_that_describes_something_huge_is_refused_at_once(tmp_path, model, changes):
    path = export_with(tmp_path / "m.safetensors", model, described(**changes))
    sentence = r"a dpot with [0-9,]{14,} parameters, but holds only \d\d,\d{3}, in 34 tensors"
    with pytest.raises(CheckpointError, match=sentence):
        load_model(path)


@pytest.mark.parametrize("text", ["[" * 10**5, "9" * 5000])
def test_a_description_that_breaks_the_parser_is_one_sentence(tmp_path, model, text):
    path = export_with(tmp_path / "m.safetensors", model, {"architecture": text})
    with pytest.raises(CheckpointError, match="its 'architecture' is not JSON"):
        load_model(path)


def test_a_web_page_in_place_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "model_Ti.pth"
    file.write_text("<!DOCTYPE html><html><title>Sign in</title></html>")
    with pytest.raises(CheckpointError, match=rf"{file} is a web page: the download failed \(Sign"):
        read(file)
