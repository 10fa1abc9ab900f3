"""The digest of a dataset: of its recipe if it was generated, else of its values."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import INDEX
from dpot_scale.data.store.digest import dataset_digest, recipe_digest
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.writer import StoreWriter


@pytest.fixture
def digest_of(
    tmp_path: Path, describe: Callable[..., DatasetInfo], coded: Callable[..., np.ndarray]
) -> Callable[..., str]:
    """Write a small dataset into a folder, with changes of its description; return its digest."""

    def digest_of(folder: str, *, first: int = 0, test_from: int = 2, **changes: Any) -> str:
        info = replace(describe("a"), **({"origin": "imported"} | changes))
        fields = coded(first, 3, 2, 1, 4)
        with StoreWriter(tmp_path / folder, info) as writer:
            writer.append("train", fields[:test_from])
            writer.append("test", fields[test_from:])
        return dataset_digest(read_index(tmp_path / folder / info.name / INDEX))

    return digest_of


def test_imported_data_are_their_values_and_what_these_mean(digest_of: Callable[..., str]) -> None:
    digest = digest_of("here")
    assert digest_of("elsewhere") == digest
    assert digest_of("from another place", source="another mirror") == digest
    others = [
        digest_of("other values", first=1),
        digest_of("another split", test_from=1),
        digest_of("another time", frame_interval=0.25),
        digest_of("another field", channels=("w",)),
    ]
    assert len({digest, *others}) == 5


def test_a_coefficient_is_another_input_than_a_fluid_mask(
    tmp_path: Path, describe: Callable[..., DatasetInfo]
) -> None:
    """Datasets with a fluid mask alone keep the digest that they always had."""
    digests = {}
    for meaning in ("mask", ""):
        info = replace(
            describe("a", ("u", "v", "mask")),
            scored=(True, True, False),
            origin="imported",
            fluid_mask=meaning,
        )
        with StoreWriter(tmp_path / f"as {meaning}", info) as writer:
            writer.append("train", np.ones((1, 2, 3, 4, 4)))
        index = tmp_path / f"as {meaning}" / "a" / INDEX
        digests[meaning] = dataset_digest(read_index(index))
        content = json.loads(index.read_text())
        del content["format"], content["info"]["fluid_mask"], content["info"]["coordinates"]
        index.write_text(json.dumps(content))
        assert dataset_digest(read_index(index)) == digests["mask"], "of the first format"
    assert digests[""] != digests["mask"]


def test_generated_data_are_their_recipe(digest_of: Callable[..., str]) -> None:
    """It is known before they are made, and kept by another machine's last digits."""
    recipe = "darcy at seed 0"
    assert digest_of("here", origin="generated", source=recipe) == recipe_digest(recipe)
    there = digest_of("there", origin="generated", source=recipe, first=1)
    assert there == recipe_digest(recipe) != recipe_digest("darcy at seed 1")
