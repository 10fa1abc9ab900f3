"""What is safe on the disk of a dataset that is being written, so that another writer goes on."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dpot_scale.config.record import FIRST_FORMAT, FORMAT_KEY, read_record
from dpot_scale.data.info import DatasetInfo
from dpot_scale.data.store.dataset import Split
from dpot_scale.data.store.index import StoredIndex
from dpot_scale.data.store.shards import Shard
from dpot_scale.data.store.statistics import Moments
from dpot_scale.errors import DataError
from dpot_scale.files import write_whole

PROGRESS = "progress.json"


def _no_shards() -> dict[Split, list[Shard]]:
    return {"train": [], "valid": [], "test": []}


@dataclass
class Written:
    """The shards of a dataset that are on the disk, and the moments of the first split."""

    info: DatasetInfo
    shards: dict[Split, list[Shard]] = field(default_factory=_no_shards)
    moments: Moments = field(default_factory=Moments)

    def trajectories(self, split: Split) -> int:
        """Return how many trajectories of a split there are."""
        return sum(shard.trajectories for shard in self.shards[split])

    def index(self) -> dict[str, Any]:
        """Return the content of the index of these shards."""
        return {
            FORMAT_KEY: StoredIndex.newest_format(),
            "info": asdict(self.info),
            "statistics": asdict(self.moments.statistics(len(self.info.channels))),
            "splits": {
                split: [asdict(shard) for shard in shards] for split, shards in self.shards.items()
            },
        }

    def save(self, folder: Path) -> None:
        """Write this beside the shards, for `read_progress`."""
        state = {"index": self.index(), "moments": self.moments.to_json()}
        write_whole(folder / PROGRESS, json.dumps(state, indent=2))


def read_progress(folder: Path, info: DatasetInfo) -> Written | None:
    """Return what an interrupted writer of the same dataset left; None if there is nothing.

    Args:
        folder: Where the dataset lies until it is complete.
        info: The dataset that is to be written. What was left of another one is nothing.
    """
    try:
        state = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        index = read_record(StoredIndex, state["index"], folder / PROGRESS, DataError)
        moments = Moments.from_json(state["moments"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    # Importers of the first format put valid trajectories among those to train on: going on from
    # there would have them in both splits.
    is_merged = info.origin == "imported" and index.format == FIRST_FORMAT
    if index.info != info or is_merged:
        return None
    shards: dict[Split, list[Shard]] = {
        split: list(shards) for split, shards in index.splits.by_name().items()
    }
    return Written(info, shards, moments)
