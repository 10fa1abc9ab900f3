import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import dpot_scale
from dpot_scale.checkpoints.weights import load_model, read
from dpot_scale.checkpoints.weights_file import save_model, stream_model
from dpot_scale.config.model import ModelConfig
from dpot_scale.errors import CheckpointError
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.dpot.sizes import architecture

SMALL = ModelConfig(
    size="debug", width=32, depth=1, grid=16, patch=4, channels=2, history=3,
    time_aggregation="mlp", normalize=True, modes=2, horizon=2,
)  # fmt: skip


@pytest.fixture
def model() -> DPOT:
    torch.manual_seed(0)
    return DPOT(architecture(SMALL)).eval()


def test_an_export_loads_as_the_same_model(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model.architecture, model.state_dict())
    loaded = dpot_scale.load_model(str(path))
    assert loaded.architecture == model.architecture
    assert not loaded.training
    frames = torch.randn(2, 3, 2, 16, 16)
    torch.testing.assert_close(loaded(frames), model(frames), rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_streamed_export_is_read_as_one_that_was_saved_whole(tmp_path, model):
    saved, streamed = tmp_path / "saved.safetensors", tmp_path / "streamed.safetensors"
    save_model(saved, model.architecture, model.state_dict())
    stream_model(streamed, model.architecture, model.state_dict().items())
    found, expected = read(streamed), read(saved)
    assert found.architecture == expected.architecture
    torch.testing.assert_close(found.state, expected.state, rtol=0, atol=0)


def test_half_precision_files_load_in_fp32(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model.architecture, model.bfloat16().state_dict())
    loaded = load_model(path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_nothing_is_written_where_keys_do_not_fit(tmp_path, model):
    state = model.state_dict()
    del state["pos_embed"]
    with pytest.raises(CheckpointError, match="missing: pos_embed"):
        save_model(tmp_path / "model.safetensors", model.architecture, state)
    assert not list(tmp_path.iterdir())


def export_with(path: Path, model: DPOT, metadata: dict[str, str] | None) -> Path:
    save_file(dict(model.state_dict()), path, metadata=metadata)
    return path


def described(**changes: object) -> dict[str, str]:
    arch = architecture(SMALL)
    fields = {name: getattr(arch, name) for name in arch.__dataclass_fields__} | changes
    return {"architecture": json.dumps(fields)}


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        (None, "no 'architecture' in its metadata"),
        ({"architecture": "{"}, "is not JSON"),
        ({"architecture": "{}"}, "must name exactly channels, depth"),
        (described(heads=5), "model.heads=5 does not divide model.width=32"),
        (described(width="wide"), "describes no DPOT: width='wide'"),
        (described(depth=2), r"missing: blocks.1.norm1.weight \(32,\)"),
    ],
)
def test_an_export_that_describes_another_model_is_refused(tmp_path, model, metadata, sentence):
    path = export_with(tmp_path / "model.safetensors", model, metadata)
    with pytest.raises(CheckpointError, match=sentence):
        read(path)


def test_a_truncated_export_is_refused(tmp_path, model):
    path = export_with(tmp_path / "model.safetensors", model, described())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged safetensors file"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"depth": 10**7}, "depth=10,000,000, but holds only 34 tensors"),
        ({"width": 2 * 10**12}, "describes a DPOT that is too large"),
        ({"grid": 4 * 10**9}, "describes a DPOT that is too large"),
        ({"channels": 10**30}, "describes a DPOT that is too large"),
    ],
)
def test_a_file_that_describes_something_huge_is_refused_at_once(
    tmp_path, model, changes, sentence
):
    path = export_with(tmp_path / "m.safetensors", model, described(**changes))
    with pytest.raises(CheckpointError, match=sentence):
        load_model(path)


@pytest.mark.parametrize("text", ["[" * 10**5, "9" * 5000])
def test_a_description_that_breaks_the_parser_is_one_sentence(tmp_path, model, text):
    path = export_with(tmp_path / "m.safetensors", model, {"architecture": text})
    with pytest.raises(CheckpointError, match="its 'architecture' is not JSON"):
        load_model(path)
