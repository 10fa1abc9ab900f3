"""What every family promises: its formulas are those of its network."""

import importlib
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dpot_scale.checkpoints.weights import load_model
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.model import FAMILIES, ModelConfig, config_class
from dpot_scale.engine.muon import as_stack
from dpot_scale.errors import DataError
from dpot_scale.models.adapter import merged
from dpot_scale.models.families import family_of
from dpot_scale.models.family import BLOCKS, KEEP_ALL, Family, Recompute
from dpot_scale.models.forecaster import Forecaster

# The folder of the toy, a family that the package does not list.
TOY = Path(__file__).parents[1] / "end_to_end"
SHAPE = {"grid": 16, "channels": 3, "history": 4, "horizon": 2}
# What makes the default model of a family small, where it is not.
SMALL = {
    "dpot": {"size": "debug"},
    "vit": {"width": 32, "depth": 2, "heads": 4},
    "fno": {"width": 12, "depth": 2, "modes": 5},
}


@pytest.fixture(params=[*FAMILIES, "toy"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A small model of a family, for small frames."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setitem(FAMILIES, "toy", "toy_family")
    described = {"family": request.param, **SHAPE, **SMALL.get(request.param, {})}
    return config_class(described).model_validate(described)


@pytest.fixture
def family(model: ModelConfig) -> Family[Any]:
    return family_of(model)


@pytest.fixture
def network(model: ModelConfig, family: Family[Any]) -> Forecaster:
    return drawn(model, KEEP_ALL)


def drawn(model: ModelConfig, recompute: Recompute) -> Forecaster:
    torch.manual_seed(0)
    return family_of(model).network(model, recompute, "float32")


def frames(model: ModelConfig, windows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (windows, model.history, model.channels, *[model.grid] * model.space_dims)
    return torch.randn(shape, generator=generator)


def kept_bytes(network: Forecaster, given: Tensor) -> int:
    """What the graph of a forward keeps, without the parameters."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(given)
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)


def test_its_name_is_that_of_the_registry(model: ModelConfig) -> None:
    assert type(model).model_fields["family"].default == model.family
    assert model.family in (*FAMILIES, "toy")


def test_a_family_under_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "other", FAMILIES["dpot"])
    with pytest.raises(AssertionError, match="'other', and its config calls itself 'dpot'"):
        config_class({"family": "other"})


def test_a_saved_config_is_the_same_config(model: ModelConfig) -> None:
    saved = model.model_dump(mode="json")
    assert type(model).model_validate(saved) == model
    described = type(model).model_validate(model.dimensions())
    assert described.dimensions() == model.dimensions()


def test_a_forecast_has_the_shape_of_the_frames(model: ModelConfig, network: Forecaster) -> None:
    found = network.bfloat16()(frames(model)).frames
    space = [model.grid] * model.space_dims
    assert found.shape == (2, model.horizon, model.channels, *space)
    assert found.dtype == torch.float32
    with pytest.raises(DataError, match="the model takes frames of shape"):
        network(frames(model)[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_residual_is_persistence(model: ModelConfig, dtype: torch.dtype) -> None:
    residual = drawn(model.model_copy(update={"target": "residual"}), KEEP_ALL).to(dtype)
    given = 300 + frames(model)
    found = residual(given).frames
    assert torch.equal(found, given[:, -1:].expand_as(found))


def test_a_residual_is_added_to_the_last_frame_in_units_of_the_deviation(
    model: ModelConfig, network: Forecaster
) -> None:
    """The network is that of another target, with the same weights but those of its last layer."""
    residual = drawn(model.model_copy(update={"target": "residual"}), KEEP_ALL)
    zero = [key for key, value in residual.state_dict().items() if not value.any()]
    drawn_to_zero = [key for key, value in network.state_dict().items() if not value.any()]
    (layer,) = {key.rpartition(".")[0] for key in zero if key not in drawn_to_zero}
    weights = network.state_dict()
    for key, value in residual.state_dict().items():
        assert key.startswith(layer) or torch.equal(value, weights[key]), key
    residual.load_state_dict(weights)
    given = 3 + 0.5 * frames(model)
    std = given.double().transpose(1, 2).flatten(2).std(dim=2) + 1e-6
    std = std.view(len(given), 1, model.channels, *[1] * model.space_dims)
    output = network(given).frames.double()
    if network._normalize:  # then it has put the output back into the units of the window already
        output = (output - given.double().mean((1, 3, 4), keepdim=True)) / std
    expected = given[:, -1:] + std * output
    found = residual(given).frames
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_every_parameter_is_counted_in_its_component(
    model: ModelConfig, family: Family[Any], network: Forecaster
) -> None:
    counted = dict.fromkeys(family.components, 0)
    for key, tensor in network.state_dict().items():
        (component,) = (
            name
            for name, prefixes in family.components.items()
            if any(key.startswith(prefix) for prefix in prefixes)
        )
        counted[component] += tensor.numel()
        assert not tensor.is_complex()
    assert family.parameters(model).components == counted
    assert counted[BLOCKS] == sum(p.numel() for p in network.blocks.parameters())


def test_flops_are_those_that_torch_counts(
    model: ModelConfig, family: Family[Any], network: Forecaster
) -> None:
    """Within a factor: a network may merge products, and torch sees no Fourier transform."""
    windows = 4
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(frames(model, windows))
    flops = family.flops(model, KEEP_ALL)
    assert 0.5 < counter.get_total_flops() / (windows * flops.forward) < 1.5
    assert flops.recomputed == 0
    assert 0 < family.flops(model, Recompute(blocks="full")).recomputed < flops.forward


def test_the_footprint_is_that_of_the_network(
    model: ModelConfig, family: Family[Any], network: Forecaster
) -> None:
    found = family.footprint(model, KEEP_ALL, "fp32", "float32")
    sizes = [parameter.numel() for parameter in network.parameters()]
    block = [parameter.numel() for parameter in network.blocks[0].parameters()]
    assert (found.parameters, found.block) == (sum(sizes), sum(block))
    assert max(block) <= found.largest_parameter <= max(sizes)
    assert found.block_matrix == max(block)
    matrices = [
        parameter
        for name, parameter in network.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in family.matrices)
    ]
    assert found.matrices == sum(parameter.numel() for parameter in matrices)
    stacks = Counter[tuple[int, int]]()
    for parameter in matrices:
        number, rows, columns = as_stack(parameter.shape)
        stacks[rows, columns] += number
    shapes = Counter[tuple[int, int]]()
    for one in family.matrix_shapes(model):
        shapes[one.rows, one.columns] += one.number
    assert shapes == stacks
    assert all(min(as_stack(parameter.shape)[1:]) > 1 for parameter in matrices)
    assert 0 < found.vector <= found.block_matrix
    one, three = (kept_bytes(network, frames(model, windows)) for windows in (1, 3))
    assert 0.5 < found.per_window / ((three - one) / 2) < 2
    assert found.fixed == pytest.approx(one - (three - one) / 2, rel=0.1, abs=0.02 * one)
    less = family.footprint(model, Recompute(blocks="full"), "bf16", "bfloat16")
    assert less.per_window < found.per_window


def test_adapters_are_counted_and_merged(
    model: ModelConfig, family: Family[Any], network: Forecaster
) -> None:
    plain = network(frames(model)).frames
    before = {name for name, _ in network.named_parameters()}
    network.adapt(2)
    pairs = {name: p.detach() for name, p in network.named_parameters() if name not in before}
    sides = sum(one.number * (one.rows + one.columns) for one in family.matrix_shapes(model))
    assert sum(map(Tensor.numel, pairs.values())) == 2 * sides
    torch.testing.assert_close(network(frames(model)).frames, plain, rtol=0, atol=0)
    for number, pair in enumerate(pairs.values()):
        pair.copy_(0.1 * torch.randn(pair.shape, generator=torch.Generator().manual_seed(number)))
    adapted = network(frames(model)).frames
    assert not pairs or not torch.allclose(adapted, plain)
    expected = drawn(model, KEEP_ALL)
    expected.load_state_dict(dict(merged(network.state_dict().items(), pairs)))
    torch.testing.assert_close(expected(frames(model)).frames, adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blocks", ["full", "every_k", "selective"])
def test_recomputed_blocks_change_no_gradient(model: ModelConfig, blocks: str) -> None:
    found, expected = (
        drawn(model, recompute) for recompute in (Recompute(blocks=blocks), KEEP_ALL)
    )
    for network in (found, expected):
        network(frames(model)).frames.square().sum().backward()
    for (name, one), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0, msg=name)
    assert kept_bytes(found, frames(model)) <= kept_bytes(expected, frames(model))


def test_its_blocks_are_of_the_class_it_names(family: Family[Any], network: Forecaster) -> None:
    module, _, name = family.block.rpartition(".")
    expected = getattr(importlib.import_module(module), name)
    assert {type(block) for block in network.blocks} == {expected}


@pytest.mark.parametrize("target", ["frame", "residual"])
def test_an_export_comes_back(
    tmp_path: Path, model: ModelConfig, network: Forecaster, target: str
) -> None:
    model = model.model_copy(update={"target": target})
    expected = drawn(model, KEEP_ALL).eval()
    expected.load_state_dict(network.state_dict())
    save_model(tmp_path / "model.safetensors", model, network.state_dict())
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config.dimensions() == model.dimensions()
    torch.testing.assert_close(loaded(frames(model)), expected(frames(model)))


def test_a_price_needs_no_torch(model: ModelConfig) -> None:
    program = (
        "import sys; from dpot_scale.config.model import FAMILIES, config_class; "
        "from dpot_scale.models.families import family_of; "
        "from dpot_scale.models.family import KEEP_ALL; "
        f"FAMILIES['toy'] = 'toy_family'; sys.path.insert(0, {str(TOY)!r}); "
        f"model = config_class({{'family': {model.family!r}}})(); family = family_of(model); "
        "family.parameters(model); family.flops(model, KEEP_ALL); "
        "family.footprint(model, KEEP_ALL, 'bf16', 'float32'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
