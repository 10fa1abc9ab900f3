"""How much of a published file is read at once."""

import pytest

from dpot_scale.data.importers.transfer import block_length


@pytest.mark.parametrize(
    ("chunk", "length"),
    [
        (1, 64),
        (10, 60),
        (63, 63),
        (64, 64),
        (100, 100),  # one chunk
        (256, 256),
        (10_000, 256),  # never more than 256 MiB
    ],
)
def test_a_block_is_whole_chunks_of_about_64_mib(chunk: int, length: int) -> None:
    assert block_length(2**20, aligned_to=chunk) == length


def test_a_trajectory_larger_than_a_block_is_read_alone() -> None:
    assert block_length(2**33) == 1
