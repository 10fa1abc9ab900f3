"""Two stored datasets of different shapes."""

from collections.abc import Callable, Mapping

import pytest

from dpot_scale.data.store.dataset import DatasetStore

MakeStore = Callable[..., DatasetStore]


@pytest.fixture
def stores(make_store: MakeStore) -> Mapping[str, DatasetStore]:
    return {
        "a": make_store("a", train=4, frames=6),
        "b": make_store("b", train=3, frames=5, channels=("u", "v"), grid=6),
    }
