"""A training on datasets of two grids at once: two ranks, stopped and resumed, and one alone.

The model is told the time step, of two strides, and parameters that not all datasets keep.
"""

import time
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.data.store.dataset import open_store
from dpot_scale.evaluate import main as evaluate
from dpot_scale.runs.result import read_result
from dpot_scale.tracking.spool import SPOOL, read_metrics

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]

STEPS = 24
# Two accumulated micro-batches a step, of one window per rank.
NATIVE = [
    "data.shapes=native",
    "data.strides=[1,2]",
    "batch.micro_batch=1",
    "model.modes=2",
    "model.modes_kept=symmetric",
    "model.conditioning=[dt,parameters]",
    "model.parameters=[radius,diffusion_u]",
]
# Of fp32 sums in another order. Measured: 4e-7 for gradient norms, less for all else.
CLOSE = {"rel": 1e-6}


def curves(directory: Path) -> dict[str, dict[int, float]]:
    metrics = read_metrics(directory / SPOOL)
    return {key: values for key, values in metrics.items() if key.startswith(("train/", "eval/"))}


@pytest.fixture(scope="module")
def two_ranks(start: Any) -> Any:
    return start("native", *NATIVE, ranks=2).ended()


def test_it_trains_on_two_grids_and_learns(two_ranks: Any, tiny_yaml: Path) -> None:
    assert two_ranks.code == 0, two_ranks.err
    stores = {
        name: open_store(tiny_yaml.parent / "data", name)
        for name in ("dr_pdb_generated", "swe_pdb_generated", "swe_coarse")
    }
    assert {store.info.grid for store in stores.values()} == {(16, 16), (8, 8)}
    assert "grid    as stored: dr_pdb_generated (16 x 16)" in two_ranks.out
    found = curves(two_ranks.directory)
    assert list(found["train/loss"]) == list(range(1, STEPS + 1))
    curve = found["eval/mean/rel_l2"]
    assert curve[8] > curve[STEPS]
    assert {f"eval/{name}/rel_l2" for name in stores} <= found.keys()


def test_stopped_and_resumed_it_is_the_undisturbed_run_bit_by_bit(
    start: Any, two_ranks: Any
) -> None:
    killed = start("native_resumed", *NATIVE, ranks=2)
    spool = killed.directory / SPOOL
    while killed.process.poll() is None:
        if spool.exists() and max(read_metrics(spool).get("train/loss", {}), default=0) >= 6:
            killed.kill()
            break
        time.sleep(0.02)
    killed.ended()
    resumed = start("native_resumed", *NATIVE, ranks=2).ended()
    assert resumed.code == 0, resumed.err
    assert "resuming at step" in resumed.out
    assert curves(resumed.directory) == curves(two_ranks.directory)
    found, expected = (read_result(ended.directory) for ended in (resumed, two_ranks))
    assert found is not None
    assert expected is not None
    assert found.evaluation == expected.evaluation


def test_one_rank_trains_as_two_do(start: Any, two_ranks: Any) -> None:
    alone = start("native_alone", *NATIVE, "batch.micro_batch=4").ended()
    assert alone.code == 0, alone.err
    together = curves(two_ranks.directory)
    for key, curve in curves(alone.directory).items():
        assert together[key] == pytest.approx(curve, **CLOSE), key


def test_its_export_is_scored_on_the_stored_grids(
    two_ranks: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert evaluate([str(two_ranks.directory), "--out", str(tmp_path)]) == 0
    result = read_result(two_ranks.directory)
    assert result is not None
    said = capsys.readouterr().out
    for name, score in result.evaluation.items():
        assert name in said
        assert f"{score.rel_l2:.4f}" in said
