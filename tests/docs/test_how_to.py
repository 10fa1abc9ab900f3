"""What the pages of docs/how-to/ say works as it stands there."""

import re
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

from dpot_scale.config.load import load_suite, load_sweep
from dpot_scale.config.model import FAMILIES
from dpot_scale.data.generation.equations import SOLVERS
from dpot_scale.data.generation.suite import generate_suite
from dpot_scale.data.importers.formats import FORMATS
from dpot_scale.data.store.dataset import open_store
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.prepare import main as prepare
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.report.write import RESULTS

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
TOY = Path(__file__).parents[1] / "end_to_end" / "toy_family"


def block(page: str, language: str) -> str:
    """The first block of a page in a language."""
    text = (PAGES / page).read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    assert found is not None
    return found[1]


def module(page: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that a page shows."""
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)  # where a dataclass looks for its module
    exec(compile(block(page, "python"), page, "exec"), made.__dict__)
    return made


def test_the_equation_is_solved_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = module("equation.md", "advection_diffusion", monkeypatch).AdvectionDiffusion
    monkeypatch.setitem(SOLVERS, solver.equation, solver)
    (tmp_path / "my_suite.yaml").write_text(block("equation.md", "yaml"))
    suite = load_suite(str(tmp_path / "my_suite.yaml"))
    generate_suite(suite, tmp_path, progress=lambda _: None)
    store = open_store(tmp_path, "wind")
    assert verify_dataset(store).problems == []
    first, later = store.read("test", 0, 0, 1)[0, 0], store.read("test", 0, 8, 1)[0, 0]
    # After 8 frames the wind has carried the field by 0.2 and 0.1 of the square.
    kx, ky = np.meshgrid(*[2 * np.pi * np.fft.fftfreq(32, 1 / 32)] * 2, indexing="ij")
    carried = np.exp(-1j * (0.2 * kx + 0.1 * ky) - 0.002 * 0.4 * (kx**2 + ky**2))
    expected = np.fft.ifft2(np.fft.fft2(first) * carried).real
    np.testing.assert_allclose(later, expected, atol=1e-5)


@pytest.mark.parametrize("options", [[], ["--link"]])
def test_the_importer_reads_a_file_of_its_layout(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heat_lab = module("importer.md", "heat_lab", monkeypatch)
    monkeypatch.setitem(FORMATS, "The heat lab's HDF5", heat_lab.recognise)
    fields = np.random.default_rng(0).normal(size=(10, 12, 8, 8)).astype(np.float32)
    with h5py.File(tmp_path / "heat.h5", "w") as file:
        file["temperature"] = fields
        file.attrs.update({"layout": "heat lab", "dt": 0.1})
    root = tmp_path / "data"
    assert prepare(["import", str(tmp_path / "heat.h5"), "--out", str(root), *options]) == 0
    store = open_store(root, "heat_lab")
    assert verify_dataset(store).problems == []
    assert [store.num_trajectories(split) for split in ("train", "test")] == [9, 1]
    np.testing.assert_array_equal(store.read("test", 0, 0, 12)[:, 0], fields[9])


def test_the_ladder_has_a_plan(tmp_path: Path) -> None:
    (tmp_path / "ladder.yaml").write_text(block("sweep.md", "yaml"))
    for noise in ("0.01", "0.02"):
        overrides = [f"name=noise-{noise}", f"run.objective.noise={noise}"]
        sweep = load_sweep(str(tmp_path / "ladder.yaml"), overrides)
        trials = plan(sweep)
        assert [trial.label for trial in trials].count("W64") == 2
        assert len({trial.parameters for trial in trials}) == 3
        assert {trial.run.objective.noise for trial in trials} == {float(noise)}


def test_an_entry_more_makes_twelve_trials(tmp_path: Path) -> None:
    page = (PAGES / "sweep.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^    - (grid: .*)$", page, re.M)
    text = block("sweep.md", "yaml").replace("  - windows:", f"  - {entry}\n  - windows:")
    (tmp_path / "ladder.yaml").write_text(text)
    trials = plan(load_sweep(str(tmp_path / "ladder.yaml")))
    assert len(trials) == 12
    assert {trial.run.objective.noise for trial in trials} == {0.01, 0.02}


def test_the_results_of_sweeps_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for noise, error in (("0.01", 0.2), ("0.02", 0.1)):
        folder = tmp_path / "runs" / f"noise-{noise}"
        folder.mkdir(parents=True)
        rows = [f"W64,2048,{error}", f"W64,2048,{3 * error}"]
        (folder / RESULTS).write_text("\n".join(["size,windows,rel_l2", *rows]))
    monkeypatch.chdir(tmp_path)
    exec(block("sweep.md", "python"), {})
    assert capsys.readouterr().out.splitlines() == [
        "noise-0.01  W64  2,048 windows: 0.4000",
        "noise-0.02  W64  2,048 windows: 0.2000",
    ]


def test_the_family_is_the_one_that_is_tested() -> None:
    text = (PAGES / "model-family.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`(\w+\.py)`:\n.*?^```python\n(.*?)^```", text, re.M | re.S))
    assert shown.keys() == {"config.py", "family.py", "network.py"}
    for name, code in shown.items():
        assert code == (TOY / name).read_text(encoding="utf-8")


def test_two_families_have_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOY.parent))
    monkeypatch.setitem(FAMILIES, "toy", "toy_family")
    (tmp_path / "families.yaml").write_text(block("model-family.md", "yaml"))
    trials = plan(load_sweep(str(tmp_path / "families.yaml")))
    assert {trial.label: trial.run.model.family for trial in trials} == {
        "debug": "dpot",
        "toy": "toy",
    }
    assert len({trial.run.model.grid for trial in trials}) == 1
