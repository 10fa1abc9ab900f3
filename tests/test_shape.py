"""The shape of the code that CONTRIBUTING promises: short files and functions, typed, mirrored."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dpot_scale"
TESTS = PACKAGE.parent / "tests"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 350
LONGEST_FUNCTION = 60
ENTRIES = {"train", "sweep", "prepare", "evaluate", "weights", "mirror", "doctor", "__main__"}
# Modules without a test file of their own, and where they are tested.
TESTED_ELSEWHERE = {
    "__main__.py": "test_entries.py",
    # What a checkpoint or a file holds is tested where it is written or read as a whole.
    "checkpoints/deepspeed_files.py": "engine/test_zero_state.py",
    "checkpoints/search.py": "checkpoints/test_archive.py",
    "checkpoints/tensor_file.py": "checkpoints/test_weights_file.py",
    "checkpoints/source.py": "test_evaluate.py",
    # Sections without behaviour of their own are tested where configs are loaded.
    "config/data.py": "config/test_load.py",
    "config/design.py": "scaling/test_design.py",
    "config/engine.py": "config/test_run.py",
    "config/model.py": "config/test_load.py",
    "config/record.py": "golden/test_versions.py",
    "config/sweep.py": "config/test_load.py",
    "data/generation/equations.py": "data/generation/test_suites.py",
    "data/generation/solved.py": "data/generation/test_suite.py",
    "data/generation/solvers/euler.py": "data/generation/solvers/test_compressible.py",
    "data/generation/solvers/finite_volume.py": "data/generation/solvers/test_shallow_water.py",
    "data/generation/solvers/solver.py": "data/generation/test_suites.py",
    # Parts of importers are tested by importing files.
    "data/importers/arrays.py": "data/importers/test_importing.py",
    "data/importers/cfdbench_cases.py": "data/importers/test_cfdbench.py",
    "data/importers/matlab.py": "data/importers/test_fno.py",
    # Engines are compared with each other.
    "engine/engine.py": "engine/test_zero.py",
    "engine/start.py": "engine/test_zero.py",
    "engine/state.py": "engine/test_zero_state.py",
    # What every family offers is tested for each.
    "models/dpot/family.py": "models/test_family.py",  # as every family
    "models/vit/family.py": "models/test_family.py",
    "models/fno/family.py": "models/test_family.py",
    "models/counting.py": "models/test_family.py",
    "models/families.py": "models/test_family.py",
    # Whole runs, as real processes.
    "evaluation/report.py": "test_evaluate.py",
    "evaluation/weights.py": "test_evaluate.py",
    # Parts of an evaluation are tested by what it reports.
    "evaluation/example.py": "evaluation/test_details.py",
    "evaluation/fields.py": "evaluation/test_pictures.py",
    "evaluation/tally.py": "evaluation/test_details.py",
    "evaluation/trajectories.py": "evaluation/test_evaluator.py",
    "diagnosis/examination.py": "test_doctor.py",
    "runs/endings.py": "tracking/test_ending.py",  # with what MLflow says of them
    "runs/run.py": "end_to_end/test_training.py",
    # What ranks show of themselves is tested with those who look at it.
    "runs/signs.py": "runs/test_pulse.py",
    "runs/tracked.py": "test_mirror.py",
    # With a cluster that trains nothing, and with Ray.
    "scaling/branching.py": "scaling/test_controller.py",
    "scaling/rates.py": "scaling/test_probe.py",
    # One report from results with known numbers.
    "scaling/report/analysis.py": "scaling/report/test_law_text.py",
    "scaling/report/predictions.py": "scaling/report/test_law_text.py",
    "scaling/report/blocks.py": "scaling/report/test_write.py",
    "scaling/report/compute_figure.py": "scaling/report/test_law_text.py",
    "scaling/report/figures.py": "scaling/report/test_write.py",
    "scaling/report/left_out.py": "scaling/report/test_write.py",
    "scaling/report/lines.py": "scaling/report/test_law_text.py",  # by the figures that draw them
    # One page, with all that it draws and tells.
    "scaling/report/page/charts.py": "scaling/report/page/test_page.py",
    "scaling/report/page/content.py": "scaling/report/page/test_page.py",
    "scaling/report/page/curves.py": "scaling/report/page/test_page.py",
    "scaling/report/page/parts.py": "scaling/report/page/test_page.py",
    "scaling/report/results.py": "scaling/report/test_write.py",
    "scaling/report/table.py": "scaling/report/test_write.py",
    "scaling/report/text.py": "scaling/report/test_write.py",
    # One MLflow run, from its opening to its page.
    "tracking/mlflow_client.py": "tracking/test_mlflow_run.py",
    "tracking/opening.py": "tracking/test_mlflow_run.py",
    "tracking/record.py": "tracking/test_missing.py",
    "tracking/tracker.py": "tracking/test_spool.py",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(file: Path) -> Iterator[Function]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def name(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_is_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    too_long = {
        node.name: length
        for node in functions(file)
        if node.end_lineno is not None
        and (length := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert too_long == {}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_function_is_annotated(file: Path) -> None:
    missing = []
    for node in functions(file):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments += [found for found in (node.args.vararg, node.args.kwarg) if found is not None]
        typed = [a for a in arguments if a.annotation is None and a.arg not in {"self", "cls", "_"}]
        if typed or node.returns is None:
            missing.append(node.name)
    assert missing == []


@pytest.mark.parametrize("file", FILES, ids=name)
def test_nothing_imports_an_entry(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {
        found
        for node in ast.walk(tree)
        for found in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert imported.isdisjoint(f"dpot_scale.{entry}" for entry in ENTRIES)


@pytest.mark.parametrize("file", [f for f in FILES if f.name != "__init__.py"], ids=name)
def test_a_module_has_its_tests_where_they_are_sought(file: Path) -> None:
    module = file.relative_to(PACKAGE)
    expected = TESTS / module.parent / f"test_{module.name}"
    elsewhere = TESTED_ELSEWHERE.get(str(module))
    if elsewhere is None:
        assert expected.is_file()
    else:
        assert (TESTS / elsewhere).is_file()
        assert not expected.exists(), "it is no exception any more"


def test_the_exceptions_exist() -> None:
    assert {name(file) for file in FILES} >= TESTED_ELSEWHERE.keys()
