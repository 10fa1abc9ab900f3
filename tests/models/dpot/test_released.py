import argparse
import datetime
import io
import pickle
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch

import dpot_scale
from dpot_scale.checkpoints.weights import load_model, read
from dpot_scale.checkpoints.weights_file import Weights, save_released
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.dpot.released import ARG_NAMES, IN_SHAPES

GOLDEN = Path(__file__).parents[2] / "golden"
RELEASED = GOLDEN / "official_format_small.pth"
KEYS = tuple(read(RELEASED).state)


def contents():
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(RELEASED, weights_only=True)


def written(path, content):
    torch.save(content, path)
    return path


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    return str(caught.value)


def test_a_released_file_forecasts_what_the_public_implementation_does():
    golden = torch.load(GOLDEN / "dpot2d_small.pt", weights_only=True)
    model = dpot_scale.load_model(RELEASED)
    assert not model.training
    with torch.no_grad():
        output = model(golden["input"].movedim((-2, -1), (1, 2)))
    torch.testing.assert_close(
        output.frames, golden["output"].movedim((-2, -1), (1, 2)), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(output.logits, golden["cls"], rtol=1e-5, atol=1e-6)


def test_the_prefix_of_distributed_training_is_removed(tmp_path):
    content = contents()
    content["model"] = {f"module.{key}": value for key, value in content["model"].items()}
    assert tuple(read(written(tmp_path / "a.pth", content)).state) == KEYS


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(tmp_path, key):
    content = contents()
    del content["model"][key]
    assert f"missing: {key} (" in refusal(written(tmp_path / "a.pth", content))


@pytest.mark.parametrize("key", KEYS)
def test_a_misshaped_key_is_named(tmp_path, key):
    content = contents()
    tensor = content["model"][key]
    content["model"][key] = torch.cat([tensor, tensor[:1]])
    message = refusal(written(tmp_path / "a.pth", content))
    assert "of another shape: " in message
    assert f"{key} {tuple(content['model'][key].shape)} instead of {tuple(tensor.shape)}" in message


def test_all_problems_are_listed(tmp_path):
    content = contents()
    model = content["model"]
    del model["pos_embed"], model["blocks.1.mlp.0.bias"]
    model["cls_head.0.bias"] = torch.zeros(3)
    model |= {"extra.weight": torch.zeros(1), "module.odd": torch.zeros(1)}
    assert refusal(written(tmp_path / "a.pth", content)).endswith(
        "missing: pos_embed (1, 64, 4, 4), blocks.1.mlp.0.bias (64,); "
        "unknown: extra.weight, module.odd; "
        "of another shape: cls_head.0.bias (3,) instead of (64,)"
    )


def test_weights_outvote_args_on_the_number_of_heads(tmp_path):
    content = contents()
    content["args"].n_blocks = 8
    assert read(written(tmp_path / "a.pth", content)).model.heads == 4


@pytest.mark.parametrize(
    "config",
    [
        DPOTConfig(size="debug", grid=32, channels=3, num_datasets=5, horizon=2, modes=2),
        DPOTConfig(size="debug", space_dims=3, grid=16, patch=4, channels=5, num_datasets=1),
        DPOTConfig(size="debug", grid=24, patch=4, channels=1, history=4, normalize=True),
        DPOTConfig(size="debug", width=48, heads=3, mlp_ratio=4, time_aggregation="mlp"),
    ],
)
def test_what_is_written_is_read_back(tmp_path, config):
    model = DPOT(config)
    path = tmp_path / "model.pth"
    save_released(path, Weights(model.config, model.state_dict()))
    loaded = load_model(path)
    assert loaded.config.dimensions() == model.config.dimensions()
    torch.testing.assert_close(loaded.state_dict(), dict(model.state_dict()), rtol=0, atol=0)

    # The public training script stores fewer args: the shapes say the rest.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, weights_only=True)
    del content["args"].n_channels, content["args"].n_class
    found = read(written(path, content)).model
    assert found.dimensions() == model.config.dimensions()


def test_a_model_that_the_format_does_not_know_is_refused(tmp_path):
    """It has a place for some options; of any other a file would say nothing."""
    config = DPOTConfig(size="debug", grid=32, target="residual")
    path = tmp_path / "model.pth"
    with pytest.raises(ConfigError, match=r"format does not know model\.target=residual, without"):
        save_released(path, Weights(config, DPOT(config).state_dict()))
    for grid in ((32, 64), 36):
        config = DPOTConfig(size="debug", grid=grid)
        with pytest.raises(ConfigError, match=r"format does not know model\.grid="):
            save_released(path, Weights(config, DPOT(config).state_dict()))
    assert not list(tmp_path.iterdir())
    # All that a file has a place for, or whose shapes say it: what is written is read back, above.
    known = {*ARG_NAMES, *IN_SHAPES}
    assert set(DPOTConfig.dimension_names()) - known == {
        "target",
        "skip_frames",
        "modes_kept",
        "conditioning",
        "parameters",
    }


class Attack:
    """Pickles as a call that creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda c, p: p.write_bytes(pickle.dumps(c, protocol=2))]
)
@pytest.mark.parametrize("place", ["args", "model", "optimizer"])
def test_no_code_in_a_file_is_run(tmp_path, save, place):
    target = tmp_path / "attacked"
    path = tmp_path / "a.pth"
    save(contents() | {place: Attack(target)}, path)
    assert "nothing else in it was loaded" in refusal(path)
    assert not target.exists()


def save_old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_as_numpy_1(content, path):
    """With the names that NumPy 1 pickles its numbers under."""
    text = pickle.dumps(content["args"], protocol=2)
    assert b"numpy._core" in text
    moved = io.BytesIO()
    torch.save(content, moved)
    with zipfile.ZipFile(moved) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            data = before.read(name)
            if name.endswith("/data.pkl"):
                data = data.replace(b"numpy._core.", b"numpy.core.")
            after.writestr(name, data)


@pytest.mark.parametrize("save", [torch.save, save_old, save_as_numpy_1])
def test_args_of_numpy_s_numbers_and_paths_are_read(tmp_path, save):
    content = contents()
    expected = read(written(tmp_path / "plain.pth", content)).model
    args = content["args"]
    args.width, args.n_layers = np.int64(args.width), np.int32(args.n_layers)
    args.mlp_ratio, args.modes = np.float64(args.mlp_ratio), np.array(args.modes)
    args.T_in, args.normalize = torch.tensor(args.T_in), np.bool_(args.normalize)
    args.time_agg, args.act = np.str_(expected.time_aggregation), np.str_("gelu")
    args.lr, args.losses = np.float32(1e-3), np.arange(3.0)
    args.log_path = Path("runs") / "a"
    args.data_path, args.root = PurePosixPath("/data"), PureWindowsPath("c:/data")
    content["best"] = np.float64(0.1)
    save(content, tmp_path / "a.pth")
    assert read(tmp_path / "a.pth").model.dimensions() == expected.dimensions()


def test_a_path_of_another_system_is_read(tmp_path):
    content = contents()
    content["args"].log_path = Path("runs") / "a"
    moved = io.BytesIO()
    torch.save(content, moved)
    with zipfile.ZipFile(moved) as before, zipfile.ZipFile(tmp_path / "a.pth", "w") as after:
        for name in before.namelist():
            data = before.read(name)
            assert name[-9:] != "/data.pkl" or b"cpathlib\nPosixPath\n" in data
            data = data.replace(b"cpathlib\nPosixPath\n", b"cpathlib._local\nWindowsPath\n")
            after.writestr(name, data)
    assert tuple(read(tmp_path / "a.pth").state) == KEYS


@pytest.mark.parametrize("save", [torch.save, save_old])
def test_what_is_refused_is_named(tmp_path, save):
    target = tmp_path / "attacked"
    save(contents() | {"epoch": Attack(target)}, tmp_path / "a.pth")
    assert "it names getattr, which could run code" in refusal(tmp_path / "a.pth")
    content = contents()
    content["args"].started = datetime.date(2024, 1, 1)
    save(content, tmp_path / "b.pth")
    assert "it names datetime.date, which could run code" in refusal(tmp_path / "b.pth")
    assert not target.exists()


def test_files_that_hold_something_else_are_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("The weights are elsewhere.")
    assert "neither a safetensors file nor a released weights file" in refusal(text)
    empty = tmp_path / "empty.pth"
    empty.touch()
    assert "is empty; download it again" in refusal(empty)
    assert "holds no checkpoint; give the folder of a run" in refusal(tmp_path)
    assert "does not exist; give the folder of a run" in refusal(tmp_path / "absent.pth")
    assert "must hold args and model" in refusal(written(tmp_path / "a.pth", torch.zeros(3)))
    content = contents()
    content["model"]["pos_embed"] = "a string"
    assert "must map parameter names to tensors" in refusal(written(tmp_path / "a.pth", content))
    assert "args must be a Namespace" in refusal(
        written(tmp_path / "a.pth", contents() | {"args": 3})
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("act", "tanh", "activation 'tanh'"),
        ("modes", -1, "modes=-1"),
        ("time_agg", "sum", "time_aggregation='sum'"),
    ],
)
def test_args_of_no_dpot_are_refused(tmp_path, name, value, sentence):
    content = contents()
    setattr(content["args"], name, value)
    assert sentence in refusal(written(tmp_path / "a.pth", content))
