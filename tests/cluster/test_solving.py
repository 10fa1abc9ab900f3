"""Parts of a dataset as tasks of a Ray cluster: the same numbers as here."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from dpot_scale.cluster.connection import connect
from dpot_scale.cluster.solving import _part_size, ray_tasks
from dpot_scale.config.data import GeneratedDataset
from dpot_scale.data.store.dataset import SPLITS, open_store
from dpot_scale.errors import UserError
from dpot_scale.prepare import main

SUITE = """
name: tiny
datasets:
  dr: {equation: reaction_diffusion, train: 7, test: 3, grid: 8, frames: 3, frame_interval: 0.2}
  darcy: {equation: darcy, train: 3, test: 1, grid: 8, frames: 2, frame_interval: 1.0}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a user who has no token for clusters of Ray."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[str]:
    """The address of a cluster that was started by us."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for variable in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.setenv(variable, "")  # so that it is afterwards what it was before
            patch.delenv(variable)
        connect(2, object_store_memory=100 * 2**20)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.mark.ray
def test_a_cluster_solves_the_same_numbers(
    cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suite = tmp_path / "tiny.yaml"
    suite.write_text(SUITE)
    here, there = tmp_path / "here", tmp_path / "there"
    assert main(["generate", "--suite", str(suite), "--out", str(here)]) == 0
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    capsys.readouterr()
    assert main(["generate", "--suite", str(suite), "--out", str(there)]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said == f"solving on the Ray cluster at {cluster}, on 2 cores"
    assert ray.is_initialized(), "the connection is the caller's"
    for name, counts in (("dr", [7, 0, 3]), ("darcy", [3, 0, 1])):
        stores = [open_store(root, name) for root in (here, there)]
        for split, count in zip(SPLITS, counts, strict=True):
            assert [store.num_trajectories(split) for store in stores] == [count, count]
            for number in range(count):
                a, b = (store.read(split, number, 0, 2) for store in stores)
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.ray
def test_a_cluster_of_our_own_asks_for_a_token_that_nobody_finds(cluster: str, home: Path) -> None:
    """A token in the user's home would make `ray start` ask for one that a client does not send."""
    assert (os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert not (home / ".ray").exists()


def test_a_part_is_a_shard_or_a_share_of_the_cluster() -> None:
    recipe = GeneratedDataset(
        equation="smoke", train=6500, test=1, grid=128, frames=14, frame_interval=6.0
    )
    trajectory = 4 * 14 * 3 * 128**2
    assert _part_size(recipe, workers=8) == 256 * 2**20 // trajectory
    assert _part_size(recipe, workers=650) == 10
    assert _part_size(recipe, workers=10_000) == 1
    assert _part_size(recipe.model_copy(update={"grid": 8192}), workers=1) == 1


def test_an_address_without_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**options: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(UserError, match=r"no Ray cluster at RAY_ADDRESS=127\.0\.0\.1:1"),
        ray_tasks(print),
    ):
        pass
