"""The grid on which a model sees a dataset, and what is said of it."""

import pytest

from dpot_scale.config.data import DataConfig
from dpot_scale.config.identity import Stored
from dpot_scale.data.grids import grid_rules, seen_on, seen_shares
from dpot_scale.models.dpot.config import DPOTConfig

GRIDS = {"square": (64, 64), "coarse": (48, 48), "channel": (96, 32), "layer": (100, 384)}
MODEL = DPOTConfig(size="debug", grid=64)


def a_config(**values: object) -> DataConfig:
    return DataConfig.model_validate({"weights": dict.fromkeys(GRIDS, 1.0)} | values)


def test_resized_datasets_are_named_with_what_is_done_to_them() -> None:
    assert grid_rules(GRIDS, MODEL, a_config()) == (
        "resized to 64 x 64 points: coarse (48 x 48); stretched to 64 x 64 points, each axis by "
        "its own factor: channel (96 x 32), layer (100 x 384)"
    )
    assert grid_rules({"square": (64, 64)}, MODEL, a_config()) == ""
    assert grid_rules({"channel": (96, 32)}, MODEL.on((48, 16)), a_config()) == (
        "resized to 48 x 16 points: channel (96 x 32); model.grid=[96, 32] takes them as stored"
    )
    assert grid_rules({"square": (60, 60)}, MODEL.on((60, 60)), a_config()) == (
        "60 x 60 padded to 64 x 64 by its edge"
    )


def test_the_grid_that_takes_all_datasets_as_stored_is_named() -> None:
    both = {"one": (48, 48), "other": (48, 48)}
    assert grid_rules(both, MODEL, a_config()) == (
        "resized to 64 x 64 points: one (48 x 48), other (48 x 48); "
        "model.grid=48 takes them as stored"
    )


def test_native_datasets_are_named_with_their_grids() -> None:
    assert grid_rules(GRIDS, MODEL, a_config(shapes="native")) == (
        "as stored: square (64 x 64), coarse (48 x 48), channel (96 x 32), layer (100 x 384); "
        "100 x 384 padded to 104 x 384 by its edge"
    )


@pytest.mark.parametrize("shapes", ["resize", "native"])
def test_the_grid_of_a_dataset(shapes: str) -> None:
    seen = seen_on((96, 32), MODEL, a_config(shapes=shapes))
    assert seen == ((96, 32) if shapes == "native" else (64, 64))


def test_each_grid_has_its_share_of_the_windows() -> None:
    stored = {"coarse": Stored(grid=(48, 48), trajectories=10)}
    stored["channel"] = Stored(grid=(96, 32), trajectories=30)
    weights = {"coarse": 1.0, "channel": 2.0, "unknown": 1.0}
    native = a_config(shapes="native", weights=weights)
    assert seen_shares(MODEL, native, stored) == {(48, 48): 0.25, (96, 32): 0.5, (64, 64): 0.25}
    repeated = a_config(shapes="native", weights=weights, sampling="repeat")
    assert seen_shares(MODEL, repeated, stored) == pytest.approx(
        {(48, 48): 10 / 71, (96, 32): 60 / 71, (64, 64): 1 / 71}
    )
    assert seen_shares(MODEL, a_config(weights=weights), stored) == {(64, 64): 1.0}
