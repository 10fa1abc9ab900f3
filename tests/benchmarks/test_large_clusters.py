"""benchmarks/large_clusters.py says today what its note says: the figures follow from the code."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
NOTE = (FOLDER / "large_clusters_2026-11.md").read_text(encoding="utf-8").splitlines()
TEXT = " ".join(NOTE)


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> Any:
    return load("large_clusters")


@pytest.fixture(scope="module")
def of_sweeps() -> Any:
    return load("large_sweep")


def test_every_figure_of_the_note_is_computed(
    script: Any, of_sweeps: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = script.Cluster(storage=10e9)
    script.print_runs(cluster)
    script.print_checkpoints(cluster)
    of_sweeps.print_requests(requests=40, workers=8)
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) == 2 * (2 + 9) + (2 + 3) + 3
    assert [line for line in printed if line not in NOTE] == []
    tables = [line for line in NOTE if line.startswith("| ")]
    assert [line for line in tables if line not in printed] == []


def test_the_controller_sees_all_trials_to_their_ends(
    of_sweeps: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    of_sweeps.print_sweep(seeds=4)
    said = capsys.readouterr().out
    assert re.search(r"^20 trials: planned in .* CPU seconds; begun, noted and ended, ", said, re.M)


def test_the_words_of_the_note_are_those_of_its_figures(script: Any) -> None:
    cluster = script.Cluster(storage=10e9)
    runs = {name: script.busy_run(name, 512) for name in script.MODELS}
    rows = {name: script.row(run, 512, cluster) for name, run in runs.items()}
    held = {n: r.seconds["reading"] / r.seconds["computing"] for n, r in rows.items()}
    assert f"by a factor of {held['3B']:.0f} (3B) to {held['L']:.0f} (L)" in TEXT
    assert f"A window is {script.window_bytes(runs['L']) / 1e6:.1f} MB" in TEXT
    for run in runs.values():
        (found,) = script.moves(run, 512, cluster)
        assert found[0].startswith("data.root")
        assert found[1].first == "computing"
    sizes = [script.checkpoint_bytes(script.parameters_of(name)) / 1e9 for name in script.MODELS]
    least = [1e3 * size / (60 * runs["L"].checkpoint.minutes) for size in sizes]
    assert "it must get {:.0f}, {:.0f} and {:.0f} MB/s".format(*least) in TEXT


def test_a_setting_that_moves_a_bottleneck_is_priced_as_the_plan_does(script: Any) -> None:
    """Not only the words: the run that comes out of it is the preset with the setting."""
    run = script.load_run("paper_l")
    cluster = script.Cluster(storage=10e9)
    words, found = next(script.moves(run, 8, cluster))
    assert words == "engine.activation_checkpointing=none"
    assert found == script.row(script.load_run("paper_l", [words]), 8, cluster)
    assert found.speed > script.row(run, 8, cluster).speed
    of_sweep, gpus = script.preset_runs()["L of gpus"]
    (trial,) = (t for t in script.plan(script.load_sweep("gpus"), "h100") if t.label == "L")
    assert trial.run.batch.global_batch == of_sweep.batch.global_batch == 512
    step = script.row(script.shared_by(of_sweep, gpus[0]), gpus[0], cluster).seconds
    slowest = max(step[part] for part in ("computing", "sending", "host"))
    assert trial.seconds == pytest.approx(trial.run.steps * slowest + 20)


def test_what_makes_another_run_is_said(script: Any) -> None:
    run, _ = script.preset_runs()["paper_h"]
    cluster = script.Cluster(storage=10e9)
    said = [words for words, _ in script.moves(script.shared_by(run, 200), 200, cluster)]
    others = [words for words in said if words.endswith(" (another run)")]
    assert others == [w for w in said if w.startswith("batch=") or "zero1_bf16" in w]
    assert "engine.deepspeed=zero0_fp32" in said, "the same precision: the same run"
