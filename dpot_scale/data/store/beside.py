"""What lies beside the frames of trajectories: constant channels, parameters and series.

A shard holds it for its own trajectories. `linked.h5` holds it for each split of a linked dataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dpot_scale.data.info import DatasetInfo

CONSTANTS = "constants"  # (N, C, *space)
PARAMETERS = "parameters"  # of each name, N numbers
SERIES = "series"  # of each name, a number per frame, one trajectory after the other
TIMES = "time"  # the series of the times of frames that are not evenly spaced
INTERVAL = "frame_interval"  # the parameter, where trajectories differ in it

Array = NDArray[Any]


@dataclass
class Beside:
    """What trajectories have beside their frames, one entry for each trajectory."""

    constants: list[Array] = field(default_factory=list)  # (C, *space)
    parameters: list[Mapping[str, Any]] = field(default_factory=list)
    series: list[Mapping[str, Array]] = field(default_factory=list)  # (T,) of each name

    def add(
        self,
        number: int,
        parameters: Mapping[str, Array] | None,
        series: Mapping[str, Array] | None,
    ) -> None:
        """Add the trajectory of a number, from the values of all trajectories."""
        self.parameters.append(
            {name: of_all[number] for name, of_all in (parameters or {}).items()}
        )
        self.series.append({name: of_all[number] for name, of_all in (series or {}).items()})

    def write(self, group: h5py.Group, info: DatasetInfo) -> None:
        """Write all this into a group of an HDF5 file."""
        if any(info.constant):
            group.create_dataset(CONSTANTS, data=np.stack(self.constants))
        for name in self.parameters[0]:
            values = np.asarray([of_one[name] for of_one in self.parameters])
            group.create_dataset(f"{PARAMETERS}/{name}", data=values)
        for name in self.series[0]:
            numbers = np.concatenate([of_one[name] for of_one in self.series])
            group.create_dataset(f"{SERIES}/{name}", data=numbers)
