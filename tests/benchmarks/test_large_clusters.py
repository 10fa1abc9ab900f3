"""benchmarks/large_clusters.py says today what its note says: the figures follow from the code."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
NOTE = (FOLDER / "large_clusters_2026-11.md").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("large_clusters", FOLDER / "large_clusters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_of_the_note_is_computed(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = script.Cluster(storage=10e9)
    script.print_models(cluster)
    script.print_checkpoints(cluster)
    script.print_requests(requests=200, workers=8)
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) == (2 + 9) + (2 + 3) + 3
    assert [line for line in printed if line not in NOTE] == []
    tables = [line for line in NOTE if line.startswith("| ")]
    assert [line for line in tables if line not in printed] == []


def test_the_controller_sees_all_trials_to_their_ends(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    script.print_sweep(seeds=4)
    said = capsys.readouterr().out
    assert re.search(r"^20 trials: planned in .* CPU seconds; begun, noted and ended, ", said, re.M)


def test_the_words_of_the_note_are_those_of_its_figures(script: Any) -> None:
    text = " ".join(NOTE)
    cluster = script.Cluster(storage=10e9)
    rows = {name: script.row(model, 512, cluster) for name, model in script.MODELS.items()}
    held = {n: r.seconds["reading"] / r.seconds["computing"] for n, r in rows.items()}
    assert f"by a factor of {held['3B']:.0f} (3B) to {held['L']:.0f} (L)" in text
    assert f"A window is {script.WINDOW_BYTES / 1e6:.1f} MB" in text
    for row in rows.values():  # from a disk of each node
        local = {name: s for name, s in row.seconds.items() if name != "reading"}
        assert max(local, key=lambda name: local[name]) == "computing"
    sizes = [script.checkpoint_bytes(model) / 1e9 for model in script.MODELS.values()]
    at_one_gb_per_second = "takes {:.0f}, {:.0f} and {:.0f} s".format(*sizes)
    assert f"if it gets 1 GB/s, that {at_one_gb_per_second}" in text
