"""What weights say of the data they were trained on."""

from dataclasses import replace

import pytest

from dpot_scale.config.data import DataConfig
from dpot_scale.data.channels import Channels, channels_of, read_training_data, training_data
from dpot_scale.data.store.statistics import Statistics
from dpot_scale.errors import CheckpointError

ONE = {"names": ["u"], "scored": [True], "mean": [0], "std": [1], "frame_interval": 0.5}


def config(normalize: str) -> DataConfig:
    return DataConfig.model_validate({"weights": {"any": 1}, "normalize": normalize})


@pytest.mark.parametrize(
    ("normalize", "mean", "std"),
    [
        ("none", (0, 0, 0, 3, 6e5), (1, 1, 1, 0.5, 6e5)),
        ("dataset", (2, 7, 0, 3, 6e5), (4, 1, 1, 0.5, 6e5)),
    ],
)
def test_fields_are_scaled_where_asked_coefficients_always_masks_never(
    normalize: str, mean: tuple[float, ...], std: tuple[float, ...], describe
) -> None:
    names = ("u", "constant_u", "mask", "density", "constant_density")
    info = replace(
        describe("any", names), scored=(True, True, False, False, False), fluid_mask="mask"
    )
    statistics = Statistics((2, 7, 0.9, 3, 6e5), (4, 0, 0.1, 0.5, 1e-3))
    found = channels_of(info, statistics, config(normalize))
    assert found == Channels(
        names=names,
        scored=info.scored,
        mean=mean,
        std=std,
        frame_interval=info.frame_interval,
    )
    assert found.is_scaled
    assert not Channels.model_validate(ONE).is_scaled


def test_it_is_written_and_read(make_store) -> None:
    stores = {"b": make_store("b", channels=("u", "v")), "a": make_store("a")}
    data = training_data(stores, config("dataset"))
    assert {name: found.names for name, found in data.datasets.items()} == {
        "b": ("u", "v"),
        "a": ("h",),
    }
    assert read_training_data(data.model_dump(mode="json"), "here") == data
    assert (data.format, data.shapes) == (2, "resize")
    assert read_training_data({"datasets": {"a": ONE}}, "the first format").shapes is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"format": 9, "datasets": {"a": ONE}}, "here was written by another version .* is 9"),
        ({"datasets": {"a": ONE | {"unit": "m"}}}, r"another version .* has datasets\.a\.unit"),
        ({"datasets": {"a": ONE | {"std": [0]}}}, r"here says nothing usable .* datasets\.a\.std"),
        ({"datasets": {"a": ONE | {"mean": []}}}, "as many values as channels, 1"),
        ([], "here says nothing usable"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(raw: object, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_training_data(raw, "here")
