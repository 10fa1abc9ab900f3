"""Files of weights, in both formats; nothing in them is ever run."""

import contextlib
import json
import os
import pickle
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpot_scale.checkpoints.weights import load_model
from dpot_scale.checkpoints.weights_file import Weights, save_model, save_released
from dpot_scale.config.load import load_run
from dpot_scale.errors import CheckpointError, UserError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT

mutations = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("mutations.py"))))

SMALL = DPOTConfig(size="debug", width=16, depth=1, grid=8, patch=4, channels=2, history=2, modes=2)


def tolerated(file: Path) -> None:
    with contextlib.suppress(UserError):
        load_model(file)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same weights in both formats."""
    folder = tmp_path_factory.mktemp("good")
    state = DPOT(SMALL).state_dict()
    save_model(folder / "model.safetensors", SMALL, state)
    save_released(folder / "model.pth", Weights(SMALL, state))
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_odd_bytes(name: str, good: Path, tmp_path: Path) -> None:
    @given(mutations.mutated_bytes((good / name).read_bytes()))
    def try_one(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        tolerated(tmp_path / name)

    try_one()


def test_odd_metadata(good: Path, tmp_path: Path) -> None:
    """The header of an export: what it says of the model, its data and each tensor."""
    content = (good / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    model = json.loads(header["__metadata__"]["model"])
    file = tmp_path / "model.safetensors"

    @given(
        st.one_of(
            mutations.mutated_json(header),
            mutations.mutated_json(model).map(
                lambda raw: {**header, "__metadata__": {"format": "3", "model": json.dumps(raw)}}
            ),
        )
    )
    def try_one(raw: object) -> None:
        text = json.dumps(raw).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        tolerated(file)

    try_one()


def test_odd_args(good: Path, tmp_path: Path) -> None:
    """What a released file says of its model."""
    content = torch.load(good / "model.pth", weights_only=False)
    args = vars(content["args"])
    file = tmp_path / "model.pth"

    @given(mutations.mutated_json(args))
    def try_one(raw: object) -> None:
        torch.save({**content, "args": raw}, file)
        tolerated(file)

    try_one()


class Call:
    """Pickled, it is a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, os.mkdir, pickle.loads])
@pytest.mark.parametrize("place", ["args", "model", "whole"])
def test_no_call_in_a_file_is_made(function: Any, place: str, good: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    argument = {os.system: f"touch {made}", os.mkdir: str(made)}.get(
        function, f"open({str(made)!r}, 'w')"
    )
    content = torch.load(good / "model.pth", weights_only=False)
    call = Call(function, argument)
    file = tmp_path / "model.pth"
    torch.save(call if place == "whole" else {**content, place: call}, file)
    with pytest.raises(CheckpointError, match="nothing else in it was loaded"):
        load_model(file)
    assert not made.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system"])
def test_no_call_in_a_config_is_made(tag: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    file = tmp_path / "config.yaml"
    file.write_text(f"name: {tag} ['touch {made}']\n")
    with pytest.raises(UserError):
        load_run(str(file))
    assert not made.exists()
