"""Digests of stored datasets: twelve digits, which are equal for equal data in any place."""

from dataclasses import asdict
from itertools import compress

from dpot_scale.config.base import content_hash
from dpot_scale.data.store.index import StoredIndex

# Of an imported dataset: what its values mean. Names and places do not count.
MEANING = ("equation", "channels", "scored", "grid", "domain_length", "frame_interval")
MEANING_SINCE = ("coordinates",)  # of format 2, where an index says them


def recipe_digest(recipe: str) -> str:
    """Return the digest of a generated dataset, which is known before it is generated.

    Args:
        recipe: The recipe, as `SuiteConfig.recipe` and the index of the dataset give it.
    """
    return content_hash({"recipe": recipe})


def dataset_digest(index: StoredIndex) -> str:
    """Return the digest of a stored dataset: of its recipe, or of its values if it is imported."""
    if index.info.origin == "generated":
        return recipe_digest(index.info.source)
    shards = [
        [split, shard.trajectories, shard.frames, shard.sha256]
        for split, of_split in index.splits.by_name().items()
        for shard in of_split
    ]
    info = asdict(index.info)
    since = {key: info[key] for key in MEANING_SINCE if info[key]}  # others keep their digest
    coefficients = list(compress(index.info.channels, index.info.coefficient))
    if coefficients:  # which the first versions showed to models as they are
        since["coefficients"] = coefficients
    return content_hash({"shards": shards} | {key: info[key] for key in MEANING} | since)
