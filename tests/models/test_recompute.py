"""Activation checkpointing changes what is kept, and no gradient."""

import pytest
import torch
from pydantic import ValidationError

from dpot_scale.config.load import load_run
from dpot_scale.config.run import EngineConfig
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.family import Recompute

ARCH = DPOTConfig(
    size="debug", width=32, depth=3, grid=16, patch=4, channels=2, history=3, normalize=True
)
FRAMES = torch.randn(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
# Options, and how often the mixers of the blocks run in a forward and backward.
CASES = {
    "none": ({"activation_checkpointing": "none"}, 3),
    "full": ({"activation_checkpointing": "full"}, 6),
    "every_k": ({"activation_checkpointing": "every_k", "recompute_every": 2}, 5),
    "selective": ({"activation_checkpointing": "selective"}, 6),
    "fairscale": ({"activation_checkpointing": "full", "recompute_backend": "fairscale"}, 6),
    "fairscale_offload": (
        {
            "activation_checkpointing": "full",
            "recompute_backend": "fairscale",
            "recompute_offload": True,
        },
        6,
    ),
}


def model(options: dict[str, object]) -> DPOT:
    torch.manual_seed(0)
    return DPOT(ARCH, recompute=Recompute.of(EngineConfig.model_validate(options)))


def gradients(of: DPOT) -> dict[str, torch.Tensor]:
    output = of(FRAMES)
    (output.frames.square().sum() + output.logits.square().sum()).backward()
    return {name: parameter.grad for name, parameter in of.named_parameters()}


def kept_bytes(of: DPOT) -> int:
    """What the graph of a forward keeps, without the parameters."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in of.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        of(FRAMES)
    return sum(
        t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights
    )


@pytest.mark.parametrize("case", [case for case in CASES if case != "none"])
def test_gradients_are_equal(case: str) -> None:
    options, block_runs = CASES[case]
    recomputed = model(options)
    runs = []
    for block in recomputed.blocks:
        block.norm1.register_forward_pre_hook(lambda *_: runs.append(1))
    found, expected = gradients(recomputed), gradients(model(CASES["none"][0]))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(runs) == block_runs


def test_selective_repeats_no_mlp() -> None:
    runs = {}
    for case in ("none", "full", "selective"):
        counted = model(CASES[case][0])
        calls: list[int] = []
        for block in counted.blocks:
            block.mlp[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        gradients(counted)
        runs[case] = len(calls)
    assert runs == {"none": 3, "full": 6, "selective": 3}


def test_what_is_kept() -> None:
    kept = {case: kept_bytes(model(CASES[case][0])) for case in CASES}
    assert kept["full"] < kept["every_k"] < kept["none"]
    assert kept["full"] < kept["selective"] < kept["none"]


def test_parameters_are_those_of_the_plain_model() -> None:
    plain = model(CASES["none"][0]).state_dict()
    for options, _ in CASES.values():
        torch.testing.assert_close(model(options).state_dict(), plain, rtol=0, atol=0)


def test_evaluation_keeps_nothing() -> None:
    with torch.no_grad():
        expected = model(CASES["none"][0]).eval()(FRAMES)
        for options, _ in CASES.values():
            found = model(options).eval()(FRAMES)
            torch.testing.assert_close(found.frames, expected.frames, rtol=0, atol=0)
            assert not found.frames.requires_grad


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"recompute_offload": True}, "needs recompute_backend=fairscale"),
        (
            {"activation_checkpointing": "selective", "recompute_backend": "fairscale"},
            "selective needs recompute_backend=torch",
        ),
        ({"recompute_backend": "fairscale", "compile": True}, "compile=true needs"),
        ({"recompute_every": 1}, "greater than or equal to 2"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        EngineConfig.model_validate(options)


def test_compiled_blocks_do_not_unroll_under_stage_3() -> None:
    """DeepSpeed reduces all gradients of a leaf module at once, after each of its forwards."""
    options = ["engine.compile=true", "objective.unroll=2", "engine.deepspeed=zero3_fp32"]
    with pytest.raises(ConfigError, match=r"objective.unroll=2 needs engine.compile=false: ZeRO-3"):
        load_run("quickstart", options)
    load_run("quickstart", [*options[:2], "engine.deepspeed=zero0_fp32"])


def test_fairscale_does_not_unroll() -> None:
    options = ["engine.recompute_backend=fairscale", "objective.unroll=2"]
    with pytest.raises(ConfigError, match=r"objective.unroll=2 needs engine.recompute_backend=tor"):
        load_run("quickstart", options)


@pytest.mark.parametrize(
    ("blocks", "repeated"), [("none", 0), ("every_k", 3), ("selective", 5), ("full", 5)]
)
def test_how_many_blocks_run_again(blocks: str, repeated: int) -> None:
    options = EngineConfig.model_validate({"activation_checkpointing": blocks})
    assert Recompute.of(options).repeated(5) == repeated


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CASES)
def test_blocks_train_where_all_before_them_is_frozen(case: str) -> None:
    trained = model(CASES[case][0])
    expected = gradients(model({}))
    for name, parameter in trained.named_parameters():
        parameter.requires_grad_(name.startswith("blocks."))
    for name, gradient in gradients(trained).items():
        if name.startswith("blocks."):
            torch.testing.assert_close(gradient, expected[name], msg=name)
        else:
            assert gradient is None


def test_a_frozen_model_makes_no_graph() -> None:
    frozen = model({}).requires_grad_(False)
    assert not frozen(FRAMES).frames.requires_grad
