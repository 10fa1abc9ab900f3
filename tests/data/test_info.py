"""What the index of a dataset says about it."""

import json
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.info import DatasetInfo, is_dataset_name


def test_an_info_survives_json(describe) -> None:
    info = describe("a", ("u", "v"))
    assert TypeAdapter(DatasetInfo).validate_json(json.dumps(asdict(info))) == info
    assert hash(info) == hash(describe("a", ("u", "v")))


def test_a_name_is_that_of_one_folder() -> None:
    assert all(is_dataset_name(name) for name in CATALOG)
    assert not any(map(is_dataset_name, ("", ".", "..", ".hidden", "a/b", "../a", "a b", "-a")))


def test_channels_and_axes_have_units_for_people(describe) -> None:
    info = describe("a", ("u", "v", "p"))
    assert info.labels == ("u", "v", "p")
    said = replace(info, units=("m/s", "", "1"), length_unit="km")
    assert said.labels == ("u [m/s]", "v", "p"), "a number and what nobody knows have no unit"
    assert said.axis_labels == ("x [km]", "y [km]")


def test_an_unknown_domain_has_the_proportions_of_its_grid(describe) -> None:
    info = replace(describe("a", ("u",)), grid=(3, 5), domain_length=(1.0, 1.0), length_unit="m")
    assert info.ends == ((0.0, 1.0), (0.0, 1.0))
    unknown = replace(info, has_lengths=False)
    assert unknown.ends == ((0.0, 3.0), (0.0, 5.0))
    assert unknown.axis_labels == ("x [points]", "y [points]")
    coordinates = ((1.0, 2.0, 4.0), (5.0, 4.0, 3.0, 2.0, 1.0))
    placed = replace(unknown, coordinates=coordinates)
    assert placed.ends == ((1.0, 4.0), (1.0, 5.0))
    assert placed.axis_labels == ("x [m]", "y [m]")
