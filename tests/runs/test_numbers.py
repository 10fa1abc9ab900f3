"""The size of a run, as metrics."""

from pathlib import Path

from dpot_scale.config.load import load_run
from dpot_scale.data.datasets import open_datasets
from dpot_scale.runs.numbers import size
from dpot_scale.runs.resolved import identify, resolve


def test_the_size_counts_the_trajectories_that_are_used(tiny_yaml: Path) -> None:
    found = []
    for override in ("name=tiny", "data.trajectories=4"):
        config = load_run(str(tiny_yaml), [override])
        run = resolve(identify(config), world_size=1, on_gpu=False)
        stores = open_datasets(config.data, config.model, progress=lambda _: None)
        found.append(size(run, stores))
        assert found[-1]["model/params"] == run.parameters.total
        assert found[-1]["model/block_params"] == run.parameters.blocks < run.parameters.total
    assert [numbers["data/trajectories"] for numbers in found] == [13, 12]
