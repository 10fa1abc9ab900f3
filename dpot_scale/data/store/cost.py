"""What the trajectories of a generated dataset cost: `cost.json` beside the index.

It belongs to no digest: the same recipe gives the same data, however fast the machine was.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dpot_scale.config.base import NonNegativeFloat
from dpot_scale.config.record import FORMAT_KEY, Record, read_record
from dpot_scale.data.store.dataset import Split
from dpot_scale.data.store.faults import require_machine
from dpot_scale.errors import DataError
from dpot_scale.files import write_whole

COST = "cost.json"


class Cost(Record):
    """Seconds that a worker needed for each trajectory, in the order of each split.

    Trajectories that a worker solves together cost the same. None: not known.
    """

    seconds: dict[Split, tuple[NonNegativeFloat | None, ...]]


def write_cost(folder: Path, seconds: Mapping[Split, Sequence[float | None]]) -> None:
    """Write the seconds of each trajectory of the dataset in a folder.

    Raises:
        DiskError: the file cannot be written.
    """
    record = {FORMAT_KEY: Cost.newest_format(), "seconds": dict(seconds)}
    write_whole(folder / COST, json.dumps(record))


def read_cost(folder: Path) -> Cost | None:
    """Return what the trajectories of the dataset in a folder cost; None if it is not recorded.

    Raises:
        DataError: the record is damaged, or another version wrote it.
    """
    path = folder / COST
    try:
        return read_record(Cost, json.loads(path.read_text(encoding="utf-8")), path, DataError)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        require_machine(path, error)
        raise DataError(f"{path} cannot be read ({error}); remove it") from error
