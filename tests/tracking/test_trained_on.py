"""What MLflow is told of the datasets of a run."""

from pathlib import Path

from dpot_scale.config.identity import Contents, Stored
from dpot_scale.config.load import load_run
from dpot_scale.tracking.trained_on import trained_on


def test_datasets_have_a_digest_a_place_and_a_profile(tmp_path: Path) -> None:
    overrides = [f"data.root={tmp_path}", "data.trajectories=64"]
    data = load_run("quickstart", overrides).data
    names = list(data.weights)
    contents = Contents(
        datasets=dict.fromkeys(names, "0123456789ab"),
        stored={names[0]: Stored(grid=(64, 64), trajectories=128)},
    )
    first, second, _ = trained_on(data, contents)
    assert (first.name, first.digest) == (names[0], "0123456789ab")
    assert first.uri == (tmp_path / names[0]).as_uri()
    assert first.profile["grid"] == "64 x 64"
    assert first.profile["train_trajectories"] == 64
    assert first.profile["weight"] == 1.0
    assert data.suite is not None
    assert first.profile["recipe"] == data.suite.recipe(names[0])
    assert "grid" not in second.profile
