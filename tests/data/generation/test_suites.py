"""The suites that come with the package, and multiples of a suite."""

from pathlib import Path

import pytest

from dpot_scale.config.data import SuiteConfig
from dpot_scale.config.load import load_suite, presets
from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.generation.equations import solver_of
from dpot_scale.data.store.dataset import SPLITS, open_store, stored_names
from dpot_scale.errors import ConfigError
from dpot_scale.prepare import main

GENERATED_SUFFIX = "_generated"  # of our own analogue of a published dataset
TINY = """
name: tiny
datasets:
  dr: {equation: reaction_diffusion, train: 4, test: 1, grid: 8, frames: 2, frame_interval: 0.1}
"""


@pytest.mark.parametrize("name", presets("suite"))
def test_every_equation_has_the_parameters_that_a_suite_gives_it(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    for dataset, recipe in suite.datasets.items():
        solver_of(recipe)
        assert dataset.endswith(GENERATED_SUFFIX)


@pytest.mark.parametrize("name", ["paper", "paper-mini"])
def test_the_paper_suites_hold_all_twelve(name: str) -> None:
    datasets = load_suite(name).datasets
    assert [name.removesuffix(GENERATED_SUFFIX) for name in datasets] == list(CATALOG)
    for dataset, recipe in datasets.items():
        entry = CATALOG[dataset.removesuffix(GENERATED_SUFFIX)]
        assert recipe.frames == entry.frames, dataset
        assert solver_of(recipe).channels == entry.channels, dataset


def test_the_paper_suite_has_the_counts_and_grids_of_the_paper() -> None:
    for dataset, recipe in load_suite("paper").datasets.items():
        entry = CATALOG[dataset.removesuffix(GENERATED_SUFFIX)]
        found = (recipe.grid, recipe.train, recipe.test)
        assert found == (entry.grid, entry.train, entry.test), dataset


def test_the_small_paper_suite_solves_the_same_equations() -> None:
    paper, mini = load_suite("paper").datasets, load_suite("paper-mini").datasets
    for dataset, recipe in mini.items():
        whole = paper[dataset]
        parameters = {k: v for k, v in whole.parameters.items() if k != "refinement"}
        assert recipe.parameters == parameters
        assert (recipe.equation, recipe.frame_interval) == (whole.equation, whole.frame_interval)
        assert recipe.train <= whole.train / 10


def test_a_multiple_of_a_suite_has_its_own_name_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    assert main(["generate", "--suite", "tiny.yaml"]) == 0
    assert main(["generate", "--suite", "tiny.yaml", "--scale", "1.5"]) == 0
    assert "1 datasets of suite tiny-x1.5" in capsys.readouterr().out
    for folder, counts in (("tiny", [4, 0, 1]), ("tiny-x1.5", [6, 0, 2])):
        root = tmp_path / "data" / folder
        assert stored_names(root) == ["dr"]
        store = open_store(root, "dr")
        assert [store.num_trajectories(split) for split in SPLITS] == counts


def test_no_split_is_scaled_to_nothing() -> None:
    recipe = load_suite("paper").scaled(1e-6).datasets["swe_pdb_generated"]
    assert (recipe.train, recipe.valid, recipe.test) == (1, 0, 1)
    with_valid = recipe.model_copy(update={"valid": 5})
    suite = SuiteConfig(name="s", datasets={"a": with_valid})
    assert suite.scaled(0.01).datasets["a"].valid == 1


@pytest.mark.parametrize("factor", ["0", "-1", "nan", "inf", "many"])
def test_a_factor_must_be_positive(factor: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--scale", factor])
    assert "--scale" in capsys.readouterr().err


def test_a_steady_problem_has_two_frames(tmp_path: Path) -> None:
    (tmp_path / "steady.yaml").write_text(
        TINY.replace("reaction_diffusion", "darcy").replace("frames: 2", "frames: 10")
    )
    with pytest.raises(ConfigError, match="frames=10: a steady problem has 2"):
        load_suite(str(tmp_path / "steady.yaml"))
