"""What the index of a dataset says about it."""

import json
from dataclasses import asdict

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
