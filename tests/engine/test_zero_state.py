"""A training goes on under another layout: on other numbers of ranks, stages and engines.

layout_ranks.py trains; what it saves and what it loads is compared to the bit.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from dpot_scale.engine.runtime import World, start_world

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(290)]

SCRIPT = Path(__file__).with_name("layout_ranks.py")
SIZES = (2, 1, 2, 3)  # ranks of each part of a training
UNTIL = (2, 3, 4, 5)  # the step at which it ends

# The strategy of each part, the optimizer, and what trains.
IN_FP32 = {
    "stage_3": (["zero3_fp32"] * 4, "adam", "parts"),
    "stage_2": (["zero2_fp32"] * 4, "adam", "adapter"),
    "stages": (["zero3_fp32", "zero1_fp32", "zero3_fp32", "zero0_fp32"], "adam", "plain"),
    "engines": (["zero0_fp32", "fairscale", "zero2_fp32", "fairscale"], "adam", "parts"),
    "muon_stage_3": (["zero3_fp32"] * 4, "muon", "plain"),
    "muon_stages": (
        ["zero1_fp32", "zero3_fp32", "zero0_fp32", "zero2_fp32"],
        "muon",
        "parts_of_matrices",
    ),
}
IN_BF16 = {
    "stages": (["zero3_bf16", "zero1_bf16", "zero2_bf16", "zero3_bf16"], "adam", "adapter"),
    "offload": (
        ["zero3_bf16_offload", "zero2_bf16_offload", "zero1_bf16", "zero3_bf16_offload"],
        "adam",
        "parts",
    ),
    "muon": (
        ["zero1_bf16", "zero3_bf16", "zero3_bf16_offload", "zero2_bf16"],
        "muon",
        "parts_of_matrices",
    ),
}
OLDER = {
    "stage_0": ("zero0_fp32", "adam", "plain"),
    "stage_1": ("zero1_bf16", "muon", "parts_of_matrices"),
    "stage_2": ("zero2_fp32", "adam", "parts"),
    "stage_3": ("zero3_bf16", "adam", "adapter"),
    "stage_3_muon": ("zero3_fp32", "muon", "parts_of_matrices"),
}
Case = tuple[list[str], str, str]


class Alone:
    """This process as a group of one rank."""

    def run(self, _: Path, function: str, *arguments: object) -> Any:
        import layout_ranks

        return getattr(layout_ranks, function)(self.world(), *arguments)

    def world(self) -> World:
        return start_world()


@pytest.fixture
def groups(ranks: Any, three_ranks: Any, monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return {1: Alone(), 2: ranks, 3: three_ranks}


def trained(case: Case, groups: dict[int, Any], folder: Path) -> tuple[list[float], Any]:
    """The losses of a training in parts, and what its last part returned."""
    strategies, optimizer, start = case
    losses: list[float] = []
    part: Any = {}
    for size, strategy, until in zip(SIZES, strategies, UNTIL, strict=True):
        arguments = (str(folder), strategy, optimizer, start, until)
        part = groups[size].run(SCRIPT, "train_on", *arguments)
        assert part["from"] == len(losses)
        assert part.get("differs", []) == [], f"on {size} ranks with {strategy}"
        losses += part["losses"]
    return losses, part


@pytest.mark.parametrize("name", IN_FP32)
def test_a_training_goes_on_under_another_layout(
    name: str, groups: dict[int, Any], tmp_path: Path
) -> None:
    case = IN_FP32[name]
    whole = groups[2].run(SCRIPT, "straight", case[0][0], *case[1:])
    losses, last = trained(case, groups, tmp_path)
    assert losses == pytest.approx(whole["losses"], rel=1e-6)
    for key, weight in whole["weights"].items():
        torch.testing.assert_close(last["weights"][key], weight, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", IN_BF16)
def test_a_training_in_bf16_goes_on_under_another_layout(
    name: str, groups: dict[int, Any], tmp_path: Path
) -> None:
    case = IN_BF16[name]
    whole = groups[2].run(SCRIPT, "straight", case[0][0], *case[1:])
    losses, _ = trained(case, groups, tmp_path)
    assert losses == pytest.approx(whole["losses"], rel=1e-2)


@pytest.mark.parametrize("name", OLDER)
def test_the_files_of_earlier_versions_hold_the_same(
    name: str, groups: dict[int, Any], tmp_path: Path
) -> None:
    """Those that DeepSpeed wrote, with its own choice of what lies where."""
    assert groups[2].run(SCRIPT, "older", str(tmp_path), *OLDER[name]) == []


@pytest.mark.parametrize(
    ("strategy", "optimizer"), [("zero3_fp32", "adam"), ("zero2_fp32", "muon")]
)
def test_a_save_in_the_background_holds_the_step_it_was_asked_for(
    strategy: str, optimizer: str, groups: dict[int, Any], tmp_path: Path
) -> None:
    whole = groups[2].run(SCRIPT, "straight", strategy, optimizer, "plain")
    found = groups[2].run(SCRIPT, "in_background", str(tmp_path), strategy, optimizer)
    assert found["losses"] == whole["losses"]
    assert found["steps"] == len(whole["losses"])
    assert found["resumed"] == whole["losses"][-1:]
