"""docs/config.md tells of every config key, and is what its script writes today."""

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal

import pytest

from dpot_scale.config.base import Section
from dpot_scale.config.identity import Contents, identity
from dpot_scale.config.load import load_run
from dpot_scale.config.model import FAMILIES, ModelConfig

SCRIPT = Path(__file__).parents[2] / "docs" / "config_reference.py"
REFERENCE = runpy.run_path(str(SCRIPT))


def test_every_key_has_a_description() -> None:
    assert REFERENCE["undescribed"]() == []


def test_the_page_is_what_the_classes_say() -> None:
    page = REFERENCE["PAGE"].read_text(encoding="utf-8")
    assert page == REFERENCE["page"](), "run `python docs/config_reference.py`"


def test_a_key_stands_with_its_values_its_default_its_identity_and_its_meaning() -> None:
    page = REFERENCE["page"]()
    assert (
        "| `log_every` | whole number ≥ 1 | `10` | | Steps per logged point of a curve. |" in page
    )
    assert "| `lr` | number > 0 | `0.001` | yes | Peak learning rate of Adam. |" in page


@pytest.mark.parametrize(
    "override",
    [
        "seed=7",
        "output=elsewhere",
        "model.width=96",
        "model.horizon=2",
        "data.root=there",
        "data.strides=[1,2]",
        "objective.noise=0.1",
        "optim.lr=1",
        "batch.micro_batch=1",
        "batch.global_batch=16",
        "engine.compile=true",
        "engine.spectral_dtype=float32",
        "evaluation.every=3",
        "checkpoint.keep=4",
        "tracking.log_every=1",
    ],
)
def test_a_key_with_yes_under_identity_makes_another_run(override: str) -> None:
    *sections, key = override.partition("=")[0].split(".")
    heading = f"### `{'.'.join(sections)}`" if sections else "## A run"
    _, _, chapter = REFERENCE["page"]().partition(f"{heading}\n")
    row = re.search(rf"^\| `{key}` \|[^|]*\|[^|]*\|([^|]*)\|", chapter, re.M)
    assert row is not None
    before, after = (
        identity(load_run("quickstart", overrides), Contents(datasets={}))
        for overrides in ([], [override])
    )
    assert (before != after) == (row[1].strip() == "yes")


class Heads(Section):
    """How a toy attends."""

    number: int = 4
    """How many there are."""


class ToyConfig(ModelConfig):
    """A model of another family."""

    family: Literal["toy"] = "toy"
    """Family of the model."""
    heads: Heads = Heads()
    undescribed: int = 1


def test_a_new_family_gets_chapters_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("toy.family")
    module.FAMILY = SimpleNamespace(config=ToyConfig)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy", ModuleType("toy"))
    monkeypatch.setitem(sys.modules, "toy.family", module)
    monkeypatch.setitem(FAMILIES, "toy", "toy")
    page = REFERENCE["page"]()
    before, _, after = page.partition("### `model` of the family toy\n\nA model of another family.")
    assert "### `model`\n\nOne DPOT" in before
    assert "| `heads` | [section](#modelheads) | | | |" in after
    assert "### `model.heads`\n\nHow a toy attends." in after
    assert REFERENCE["undescribed"]() == ["ToyConfig.undescribed"]
