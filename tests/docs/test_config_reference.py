"""docs/config.md tells of every config key, and is what its script writes today."""

import runpy
from pathlib import Path

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
    assert "| `lr` | number > 0 | `0.001` | yes | Peak learning rate. |" in page
