"""docs/api.md is what the docstrings say today, and holds what the documentation imports."""

import re
import runpy
import shutil
from pathlib import Path

import pytest

from dpot_scale.checkpoints.weights import read
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.load import load_run
from dpot_scale.config.places import RUN_CONFIG, WEIGHTS
from dpot_scale.data.channels import training_data
from dpot_scale.data.store.dataset import open_store, stored_names

ROOT = Path(__file__).parents[2]
REFERENCE = runpy.run_path(str(ROOT / "docs" / "api_reference.py"))
FORMATS = ROOT / "tests" / "golden" / "formats"
IMPORTING = ("api", "data", "reliability", "training")  # pages
LISTED = {
    f"{module}.{name}"
    for modules in REFERENCE["PUBLIC"].values()
    for module, names in modules
    for name in names
}


def test_the_page_is_what_the_docstrings_say() -> None:
    page = REFERENCE["PAGE"].read_text(encoding="utf-8")
    assert page == REFERENCE["page"](), "run `python docs/api_reference.py`"


def test_every_name_and_method_has_a_docstring() -> None:
    assert REFERENCE["undocumented"]() == []


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in IMPORTING)])
def test_what_a_page_imports_is_listed(page: str) -> None:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S))
    imports = re.findall(r"^from (dpot_scale[\w.]*) import ([\w, ]+)$", code, re.M)
    assert {f"{module}.{name}" for module, names in imports for name in names.split(", ")} <= LISTED
    assert {f"dpot_scale.{name}" for name in re.findall(r"dpot_scale\.(\w+)\(", code)} <= LISTED


def test_the_example_makes_a_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a run and a dataset of the first version, in the places that the example names.

    Its weights are written anew, as those of the first version say nothing of their data.
    """
    run = tmp_path / "runs" / "quickstart"
    shutil.copytree(FORMATS / "runs" / "finished", run)
    root = shutil.copytree(FORMATS / "store", tmp_path / "data" / "quickstart")
    stores = {name: open_store(root, name) for name in stored_names(root)}
    data = training_data(stores, load_run(str(run / RUN_CONFIG)).data)
    weights = read(run)
    save_model(run / WEIGHTS, weights.model, weights.state, data)
    monkeypatch.chdir(tmp_path)
    example = re.search(r"^```python\n(.*?)^```", REFERENCE["page"](), re.M | re.S)
    assert example is not None
    exec(example[1], {})
    errors = [float(error) for error in re.findall(r"\d\.\d+", capsys.readouterr().out)]
    assert len(errors) == 2
    assert all(0 < error < 2 for error in errors)
