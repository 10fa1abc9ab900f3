"""The arithmetic of the batch, and what a sentence offers where it does not divide."""

import re

import pytest

from dpot_scale.config.batch import BatchConfig
from dpot_scale.errors import ConfigError


def test_accumulation_follows_the_number_of_workers() -> None:
    batch = BatchConfig(global_batch=48, micro_batch=4)
    found = {workers: batch.accumulation_steps(workers) for workers in (1, 2, 3, 4, 6, 12)}
    assert found == {1: 12, 2: 6, 3: 4, 4: 3, 6: 2, 12: 1}


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "workers", "sentence"),
    [
        (24, 8, 2, "8 x 2 = 16; set batch.micro_batch=6, which divides the 12 windows of each"),
        (12, 4, 4, "4 x 4 = 16; set batch.micro_batch=3, which divides the 3 windows of each"),
        (16, 8, 3, "of the 3 workers: take 2, or, for a new run, batch.global_batch=18"),
        (4, 1, 9, "of the 9 workers: take 4, or, for a new run, batch.global_batch=9"),
        (7, 1, 6, "of the 6 workers: take 1, or, for a new run, batch.global_batch=12"),
    ],
)
def test_a_batch_that_does_not_divide_says_what_would(
    global_batch: int, micro_batch: int, workers: int, sentence: str
) -> None:
    batch = BatchConfig(global_batch=global_batch, micro_batch=micro_batch)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        batch.accumulation_steps(workers)
