"""What could not be read is read again: how often, and after which waits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpot_scale.data.stream.patience import MOST_IN_VAIN, WAITS, Patience
from dpot_scale.errors import DataError, MachineError


class Reader:
    """Fails with some errors, one after the other, then reads."""

    def __init__(self, *errors: Exception, ends: bool = False) -> None:
        self.errors = list(errors)
        self.waited: list[float] = []
        self.ends = ends
        self.patience = Patience(self.wait)

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return self.ends

    def read(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "frames"


AWAY = MachineError("no memory")


def test_what_can_be_read_is_read_once() -> None:
    reader = Reader()
    assert reader.patience.read(reader.read) == "frames"
    assert reader.waited == []


def test_a_file_at_fault_is_read_again_once_and_not_waited_for() -> None:
    reader = Reader(DataError("damaged"))
    assert reader.patience.read(reader.read) == "frames"
    reader.errors = [DataError("damaged")] * 2
    with pytest.raises(DataError, match="damaged"):
        reader.patience.read(reader.read)
    assert reader.waited == []


def test_what_may_pass_is_waited_for() -> None:
    reader = Reader(AWAY, AWAY)
    assert reader.patience.read(reader.read) == "frames"
    assert reader.waited == list(WAITS[:2])


def test_waiting_ends_where_it_turns_out_to_be_a_file_at_fault() -> None:
    reader = Reader(AWAY, DataError("damaged"))
    with pytest.raises(DataError, match="damaged"):
        reader.patience.read(reader.read)
    assert reader.waited == [WAITS[0]]


def test_waiting_ends_where_nobody_wants_it_any_more() -> None:
    reader = Reader(AWAY, ends=True)
    with pytest.raises(MachineError):
        reader.patience.read(reader.read)
    assert reader.waited == [WAITS[0]]


def test_after_some_waits_in_vain_there_is_no_other_until_one_can_read() -> None:
    reader = Reader()
    for _ in range(MOST_IN_VAIN + 1):
        reader.errors = [AWAY] * (1 + len(WAITS))
        with pytest.raises(MachineError):
            reader.patience.read(reader.read)
    assert reader.waited == list(WAITS) * MOST_IN_VAIN


# A stream whose storage is away again and again, until somebody waits for it. This thread reads the
# same files, as an evaluation does.
OUTAGES = """
import logging, os, sys
from functools import partial
from pathlib import Path
import torch
from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.data.store.dataset import open_store
from dpot_scale.data.stream import patience
from dpot_scale.data.stream.assembly import Assembler
from dpot_scale.data.stream.groups import open_groups
from dpot_scale.data.stream.reader import BatchStream, Share, training_windows
from dpot_scale.models.dpot.config import DPOTConfig

AWAY, FRAMES = Path(os.environ["AWAY"]), 3
waited = []

class Back(logging.Handler):
    def emit(self, record):
        waited.append(record.getMessage())
        AWAY.unlink(missing_ok=True)

logging.getLogger(patience.__name__).addHandler(Back())
patience.WAITS = (0.01,) * 100

def batches(outages):
    stores = {"a": open_store(Path(sys.argv[1]), "a")}
    data = DataConfig.model_validate({"weights": {"a": 1.0}})
    assembler = Assembler(DPOTConfig(grid=24, channels=2), data, torch.device("cpu"))
    windows, grids = training_windows(stores, FRAMES), {"a": assembler.space_of(stores["a"])}
    mixture = open_groups(windows, grids, data, global_batch=2, seed=5)
    share = Share(BatchConfig(global_batch=2, micro_batch=2))
    stream = BatchStream(stores, mixture, share, assembler, FRAMES)
    evaluated, evaluation = open_store(Path(sys.argv[1]), "a"), patience.Patience()
    found = []
    for step, batch in zip(range(60), stream.start(0)):
        assert batch.quarantined == ()
        found.append(batch.frames_BTCxy.clone())
        read = partial(evaluated.read, "train", step % 3, step % 17, FRAMES)
        found.append(torch.from_numpy(evaluation.read(read)))
        if outages and step % 3 == 0:
            AWAY.touch()
    AWAY.unlink(missing_ok=True)
    stream.close()
    return found

expected, none, found = batches(False), len(waited), batches(True)
print(none, len(waited), sum(not torch.equal(*pair) for pair in zip(expected, found, strict=True)))
"""


def test_batches_after_outages_are_those_of_an_undisturbed_stream(
    make_store, tmp_path: Path, run_with_outages: Callable[..., str]
) -> None:
    """Though another thread has the files open, of which HDF5 holds more than it should."""
    make_store("a", train=8, frames=20, channels=("u", "v"), grid=24)
    undisturbed, waited, wrong = map(int, run_with_outages(OUTAGES, tmp_path).split())
    assert (undisturbed, wrong) == (0, 0)
    assert waited > 5
