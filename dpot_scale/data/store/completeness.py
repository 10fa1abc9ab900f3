"""Looks, without reading it, whether a stored dataset is there as its index says."""

import os
from collections.abc import Iterator, Sequence
from math import prod

from dpot_scale.data.store.dataset import SPLITS, DatasetStore, Split
from dpot_scale.data.store.faults import require_machine
from dpot_scale.data.store.shards import Shard
from dpot_scale.errors import DataError

NAMED = 3  # files, in a sentence
FLOAT_BYTES = 4


def check_complete(store: DatasetStore, splits: Sequence[Split] = SPLITS) -> None:
    """Check that each file of splits is there and long enough, and read the end of the largest.

    Raises:
        DataError: a file is not; the sentence names the first ones.
        MachineError: a file cannot be read now, and may be intact.
    """
    found = list(_problems(store, splits))
    if found:
        more = [f"and {len(found) - NAMED} more files"] if len(found) > NAMED else []
        raise DataError(
            f"dataset {store.info.name} is not complete: {'; '.join([*found[:NAMED], *more])}; "
            "restore what is missing or make the dataset anew"
        )
    check_largest(store, splits)


def check_largest(store: DatasetStore, splits: Sequence[Split] = SPLITS) -> None:
    """Check that the largest file of each split is complete, by reading its end.

    Raises:
        DataError: it does not hold what the index says.
        MachineError: it cannot be read now, and may be intact.
    """
    for split in splits:
        shards = store.shards[split]
        if shards:
            largest = max(range(len(shards)), key=lambda i: shards[i].trajectories)
            last = sum(shard.trajectories for shard in shards[: largest + 1]) - 1
            try:
                store.read(split, last, shards[largest].frames - 1, 1)
            except DataError as error:
                require_machine(store.file_of(split, last), error.__cause__ or error)
                raise


def _problems(store: DatasetStore, splits: Sequence[Split]) -> Iterator[str]:
    """Yield what is wrong with files, each once; a published one may hold many parts."""
    files = {shard.file: shard for split in splits for shard in store.shards[split]}
    for shard in files.values():
        path = store.folder / shard.file
        try:
            size = os.stat(path).st_size  # noqa: PTH116 - a published file may have any name
        except (OSError, ValueError) as error:
            require_machine(path, error)
            yield f"{path} ({getattr(error, 'strerror', None) or error})"
            continue
        least = _least_bytes(store, shard)
        if size < least:
            yield f"{path} has {size:,} bytes, and its fields alone have {least:,}"


def _least_bytes(store: DatasetStore, shard: Shard) -> int:
    """Return how long a file is at least; of a published one nothing is known."""
    if shard.view is not None:
        return 0
    values = shard.trajectories * shard.frames * sum(store.info.scored) * prod(store.info.grid)
    return FLOAT_BYTES * values
